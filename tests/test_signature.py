"""How a Sign is checked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Refused
from gateway.signature import sign, verify_sign

NOW_S = 1_669_872_112
VECTOR = "17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061"


def reason(given, request_time, tokens, now_s=NOW_S, window_s=60):
    with pytest.raises(Refused) as caught:
        verify_sign(given, request_time, tokens, now_s, window_s)
    return caught.value.reason


def test_the_documented_vector():
    """Token xxxxyyyy at 1669872112 gives the documented Sign."""
    assert sign("xxxxyyyy", "1669872112") == VECTOR


def test_any_token_and_either_case_match():
    """An old and a new token work side by side; hex may be upper-case."""
    verify_sign(VECTOR, str(NOW_S), ["other", "xxxxyyyy"], NOW_S, 60)
    verify_sign(VECTOR.upper(), str(NOW_S), ["xxxxyyyy"], NOW_S, 60)


@pytest.mark.parametrize("skew_s", [-60, 0, 60])
def test_both_directions_of_the_clock_within_the_window(skew_s):
    """The sender's clock may be ahead or behind by the window."""
    verify_sign(VECTOR, str(NOW_S), ["xxxxyyyy"], NOW_S + skew_s, 60)


@pytest.mark.parametrize("skew_s", [-61, 61])
def test_outside_the_window_is_stale(skew_s):
    """A Sign that matches but is too old or too new is told apart from a wrong one."""
    assert reason(VECTOR, str(NOW_S), ["xxxxyyyy"], NOW_S + skew_s) == "stale_signature"


@pytest.mark.parametrize("sent", [(None, "1"), ("", "1"), (VECTOR, None), (VECTOR, "")])
def test_a_missing_part_is_no_signature(sent):
    """Leaving Sign out must not turn the check off."""
    assert reason(*sent, ["xxxxyyyy"]) == "no_signature"


@pytest.mark.parametrize(
    "request_time", ["-1", "1e9", " 1669872112", "1669872112.0", "１２", "9" * 16, "1_0"]
)
def test_a_time_that_is_no_decimal_is_bad(request_time):
    """What int() would also accept is not what the sender writes."""
    assert reason(sign("xxxxyyyy", request_time), request_time, ["xxxxyyyy"]) == "bad_signature"


@given(st.text(max_size=80), st.text(max_size=20))
def test_a_strangers_sign_never_matches_and_never_crashes(given, request_time):
    """Anything but the real Sign is refused with one of the three reasons."""
    assert reason(given, request_time, ["a-token-nobody-knows"]) in ("no_signature", "bad_signature")


@given(st.text(min_size=1, max_size=128, alphabet=st.characters(codec="utf-8")), st.integers(0, 10**12))
def test_what_we_sign_we_accept(token, now_s):
    """sign and verify_sign agree for every token and time."""
    verify_sign(sign(token, str(now_s)), str(now_s), [token], now_s, 1)
