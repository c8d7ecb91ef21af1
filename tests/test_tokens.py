"""Tokens from files: read at start, again on change, never a step back to unsigned."""

import logging
import os

import pytest

from gateway import build
from gateway.banner import banner
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.tokens import TokenFiles
from tests.callback_port import callback_port, signed

OLD, NEW = "old-token-of-the-console", "new-token-of-the-console"


def config_of(path, host="127.0.0.1", **app):
    return Config.model_validate(
        {
            "listen": {"host": host},
            "apps": {"1": {"tokens_file": path, **app}},
            "admin": {"token": "long-enough-to-stay"},
        }
    )


def test_one_token_a_line(tmp_path):
    """Blank lines and comments are left out; a mark of Windows' editors is no part of a token."""
    path = tmp_path / "tokens"
    path.write_bytes(f"\ufeff# ours\r\n  {OLD}  \r\n\r\n{NEW}\n{OLD}".encode())

    assert TokenFiles(config_of(path).apps).tokens == {"1": (OLD, NEW)}


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"\xff\xfe", "UTF-8"), (b"a\0b", "NUL"), (b"x" * 70_000, "larger than 64 KiB")],
)
def test_a_file_that_cannot_be_used_is_a_config_error(tmp_path, content, said):
    """Key, path and reason are told; what stands in the file is not."""
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match=said) as caught:
        build.check(config_of(path))
    assert str(caught.value).startswith(f"apps.1.tokens_file: {path}: ")


def test_a_folder_is_no_file(tmp_path):
    """Told in words, too."""
    with pytest.raises(ConfigError, match="Is a directory"):
        TokenFiles(config_of(tmp_path).apps)


def test_an_empty_file_is_no_token(tmp_path):
    """Off loopback that is an error, unless the app may be unsigned; on loopback it is warned about."""
    path = tmp_path / "tokens"
    path.write_text("# none yet\n")

    with pytest.raises(ConfigError, match=r"apps\.1\.tokens_file: no token stands in"):
        build.check(config_of(path, "0.0.0.0"))
    assert "no token" in build.check(config_of(path))[0]
    assert "no token" in build.check(config_of(path, "0.0.0.0", unsigned="allow"))[0]
    assert build.check(config_of(path, "0.0.0.0", tokens=[OLD]))


def test_a_file_with_a_token_is_enough_off_loopback(tmp_path):
    """The token need not stand in the YAML; a short one is warned about; a worker needs no such file."""
    path = tmp_path / "tokens"
    path.write_text(OLD)
    config = config_of(path, "0.0.0.0")

    assert not [said for said in build.check(config) if "token" in said]
    path.write_text("short")
    assert any("shorter than 16" in said for said in build.check(config))
    path.unlink()
    assert not [said for said in build.check(config, serves=False) if "token" in said]


def test_the_banner_says_what_is_signed(tmp_path):
    """Also for tokens that stand in a file only."""
    said = banner(config_of(tmp_path / "tokens"), 80, serves=True, sinks=[], signed={"1"})

    assert "app 1, signed callbacks" in said
    assert "Sign=$S" in said


async def test_a_changed_file_is_taken(tmp_path):
    """Rotation: old and new side by side, then the new one alone; those of the YAML stay."""
    path = tmp_path / "tokens"
    path.write_text(OLD)
    apps = {"1": {"tokens_file": path, "tokens": ["token-of-the-yaml-file"]}}
    async with callback_port(tmp_path, apps=apps) as port:
        assert (await port.post(signed(OLD)))[0] == 200
        assert (await port.post(signed(NEW)))[0] == 401

        path.write_text(f"{OLD}\n{NEW}\n")
        port.look_at_files()
        assert [(await port.post(signed(token)))[0] for token in (OLD, NEW)] == [200, 200]

        other = tmp_path / "other"
        other.write_text(NEW)
        os.replace(other, path)
        port.look_at_files()
        assert [(await port.post(signed(token)))[0] for token in (OLD, NEW)] == [401, 200]
        assert (await port.post(signed("token-of-the-yaml-file")))[0] == 200


async def test_a_file_written_in_place_is_not_taken_half_way(tmp_path, caplog):
    """Looked at when it is empty, or holds half a token: what was read last stays in force."""
    path = tmp_path / "tokens"
    path.write_text(OLD)
    async with callback_port(tmp_path, apps={"1": {"tokens_file": path}}) as port:
        for half in ("", NEW[:5]):
            path.write_text(half)
            port.files.look()
            assert (await port.post(signed(OLD)))[0] == 200
        assert not caplog.records

        path.write_text(NEW)
        port.look_at_files()
        assert [(await port.post(signed(token)))[0] for token in (OLD, NEW)] == [401, 200]


async def test_tokens_that_are_lost_never_open_the_app(tmp_path, caplog):
    """An app that had tokens refuses everything without, until it has one again."""
    path = tmp_path / "tokens"
    path.write_text(OLD)
    async with callback_port(tmp_path, apps={"1": {"tokens_file": path, "unsigned": "allow"}}) as port:
        path.write_text("")
        port.look_at_files()

        assert await port.post() == (401, "bad_signature")
        assert await port.post(signed(OLD)) == (401, "bad_signature")
        assert await port.post(signed("")) == (401, "bad_signature")
        assert "no token stands in it any more" in caplog.text

        path.write_text(NEW)
        port.look_at_files()
        assert (await port.post(signed(NEW)))[0] == 200
        assert (await port.post())[0] == 401


async def test_the_first_token_closes_the_app(tmp_path):
    """An app without a token on loopback is open until its file has one."""
    path = tmp_path / "tokens"
    path.write_text("")
    async with callback_port(tmp_path, apps={"1": {"tokens_file": path}}) as port:
        assert (await port.post())[0] == 200
        path.write_text(NEW)
        port.look_at_files()
        assert (await port.post())[0] == 401
        assert (await port.post(signed(NEW)))[0] == 200


def test_a_file_that_is_gone_leaves_its_tokens_and_is_logged_once(tmp_path, caplog):
    """And once more when it goes again; the log never shows a token."""
    path = tmp_path / "tokens"
    path.write_text(OLD)
    files = TokenFiles(config_of(path).apps)

    for _ in range(2):
        path.unlink()
        with caplog.at_level(logging.INFO):
            assert [files.look() for _ in range(3)] == [False] * 3
        assert files.tokens == {"1": (OLD,)}
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "the tokens read last stay in force" in caplog.text
        caplog.clear()
        path.write_text(OLD)
        assert not files.look()

    path.write_text(NEW + "x")
    assert [files.look(), files.look()] == [False, True]
    assert NEW not in caplog.text
