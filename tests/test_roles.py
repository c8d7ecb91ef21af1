"""Who may do what on the admin port: tokens and the cookies made of them."""

import pytest

from gateway.roles import Keys, Role

KEYS = Keys("act-secret", "view-secret")


@pytest.mark.parametrize(
    ("token", "role"),
    [("act-secret", Role.ACT), ("view-secret", Role.VIEW), ("", None), ("act-secret ", None)],
)
def test_each_token_has_its_role(token, role):
    """Who shows the one may act, who shows the other may look, others neither."""
    assert KEYS.of_token(token) is role
    assert KEYS.of_bearer(f"Bearer {token}") is role


def test_no_view_token_is_nobodys():
    """An empty token in the configuration lets nobody in who shows an empty one."""
    assert Keys("act-secret").of_token("") is None
    assert Keys("act-secret").of_bearer("") is None


@pytest.mark.parametrize("role", list(Role))
def test_a_cookie_proves_its_role_until_it_ends(role):
    """Up to its last second, and not in that second."""
    cookie = KEYS.cookie(role, 1000)

    assert KEYS.of_cookie(cookie, 999.9) is role
    assert KEYS.of_cookie(cookie, 1000) is None


def test_a_cookie_can_not_be_made_more():
    """Neither another role nor a later end is believed, nor one of another token."""
    cookie = KEYS.cookie(Role.VIEW, 1000)

    assert KEYS.of_cookie(cookie.replace("view", "act"), 0) is None
    assert KEYS.of_cookie(cookie.replace("1000", "9999"), 0) is None
    assert Keys("act-secret", "other").of_cookie(cookie, 0) is None
    assert Keys("act-secret").of_cookie(Keys("x").cookie(Role.VIEW, 1000), 0) is None


@pytest.mark.parametrize(
    "text", ["", ".", "act", "act.1", "act.99.", "act.99.é", "root.99.0", "act.٣.0", "act.-1.0"]
)
def test_what_is_no_cookie_of_ours_is_nobodys(text):
    """Whatever a browser sends is an answer, never an error."""
    assert KEYS.of_cookie(text, 0) is None
