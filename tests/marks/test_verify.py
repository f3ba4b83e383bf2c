"""Marks of whole videos: made by the writers, read by `verify`, told when they were altered."""

from __future__ import annotations

import datetime
import json
import stat
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from difftalker.cli import main
from difftalker.errors import MediaError, UsageError
from difftalker.marks import credentials, identity
from difftalker.marks.label import SHOWN_S, labelled
from difftalker.marks.marking import MARKED, UNMARKED, Marker, Marks, Work
from difftalker.marks.metadata import boxes
from difftalker.marks.verify import Verification, verify
from difftalker.media.video import VideoWriter, probe_video, read_frames
from difftalker.packaged import samples
from measure_marks import remux
from synthetic import pictures, write_footage

JOB = "0123456789abcdef" * 4
FRAMES = 12


def made(path: Path, marks: Marks = MARKED, **of: Any) -> Path:
    """The start of the packaged footage, marked as a dub of it is."""
    work = Work(comment="AI-generated: by DiffTalker.", job=JOB, avatar="somebody")
    marker = Marker(marks, replace(work, **of), 256, 256)
    with VideoWriter(
        path,
        width=256,
        height=256,
        fps=25,
        time_base=Fraction(1, 25),
        comment=marker.comment,
        tags=marker.tags(path),
        finish=marker.finish,
    ) as writer:
        for i, frame in zip(range(FRAMES), read_frames(samples.footage()), strict=False):
            writer.write(marker.mark(frame.image, i / 25), i)
    return path


@pytest.fixture(scope="module")
def dubbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dub of footage that carries credentials; not to be written to."""
    folder = tmp_path_factory.mktemp("marked")
    first = made(folder / "first.mp4")
    return made(folder / "dub.mp4", footage=first, speech=samples.speech(), job="f" * 64)


def facts(found: Verification) -> Mapping[str, Any]:
    record = json.loads(json.dumps(found.record()))
    assert isinstance(record, dict)
    return record


def test_a_dub_holds_all_marks(dubbed: Path) -> None:
    found = facts(verify(dubbed))
    assert found["verdict"] == "intact"
    assert found["made_here"]
    assert found["source_type"] == "compositeWithTrainedAlgorithmicMedia"
    signed, maker = found["credentials"], f"{identity.identity().maker:06x}"
    assert (signed["state"], signed["failures"]) == ("trusted", [])
    assert signed["source_type"] == found["source_type"]
    assert signed["job"]["job"] == found["job"] == "f" * 64
    assert signed["job"]["watermark"] == f"{maker}ffffff"
    assert (found["watermark"]["maker"], found["watermark"]["job"]) == (maker, "ffffff")
    assert [(one["title"], one["relationship"]) for one in signed["ingredients"]] == [
        ("footage", "parentOf"),
        ("speech", "componentOf"),
    ]
    # The footage's own credentials are kept.
    assert [one["credentials"] for one in signed["ingredients"]] == [True, False]


def test_equal_jobs_give_equal_bytes(dubbed: Path, tmp_path: Path) -> None:
    first = dubbed.with_name("first.mp4")
    again = made(tmp_path / "dub.mp4", footage=first, speech=samples.speech(), job="f" * 64)
    assert again.read_bytes() == dubbed.read_bytes()


def test_without_footage_everything_is_generated(tmp_path: Path) -> None:
    found = verify(made(tmp_path / "talk.mov"))
    assert found.verdict == "intact"
    assert found.source_type == "trainedAlgorithmicMedia"


def test_a_flipped_byte_is_told(dubbed: Path, tmp_path: Path) -> None:
    """In every box: those that C2PA leaves out, and the credentials themselves, too."""
    whole, altered, anchor = (
        dubbed.read_bytes(),
        tmp_path / "altered.mp4",
        identity.identity().anchor,
    )
    assert {kind for kind, _, _ in boxes(dubbed)} >= {b"ftyp", b"uuid", b"moov", b"mdat", b"free"}
    rng, told = np.random.default_rng(0), {}
    for kind, begin, size in boxes(dubbed):
        for place in begin + rng.permutation(size)[:40]:
            copy = bytearray(whole)
            copy[place] ^= 0x10
            altered.write_bytes(copy)
            found = credentials.read(altered, anchor)
            told[kind, int(place)] = found is None or found.state == "invalid"
    assert [place for place, ok in told.items() if not ok] == []


@pytest.mark.parametrize("kind", [b"ftyp", b"moov", b"mdat", b"uuid"])
def test_a_flipped_byte_makes_a_file_altered(dubbed: Path, tmp_path: Path, kind: bytes) -> None:
    begin, size = next((begin, size) for one, begin, size in boxes(dubbed) if one == kind)
    copy = bytearray(dubbed.read_bytes())
    copy[begin + size - 1] ^= 0x10
    (tmp_path / "altered.mp4").write_bytes(copy)
    assert verify(tmp_path / "altered.mp4").verdict == "altered"


@pytest.mark.parametrize("name", ["x.mp4", "x.mov", "x.mkv", "x.jpg", "x"])
@pytest.mark.parametrize("content", [b"", b"x" * 1000])
def test_what_is_no_video_cannot_be_read(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert main(["verify", str(tmp_path / name)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert name in said.err


def test_a_suffix_of_another_kind_says_nothing(dubbed: Path, tmp_path: Path) -> None:
    """Unmarked Matroska under the name of MP4 was not altered, nor a dub under another name."""
    plain = write_footage(tmp_path / "plain.mkv", pictures(3))
    assert verify(plain.rename(tmp_path / "plain.mp4")).verdict == "unmarked"
    (tmp_path / "dub.avi").write_bytes(dubbed.read_bytes())
    assert verify(tmp_path / "dub.avi").verdict == "intact"


def test_without_metadata_the_watermark_is_left(dubbed: Path, tmp_path: Path) -> None:
    found = verify(remux(dubbed, tmp_path / "remuxed.mp4"))
    assert (found.verdict, found.credentials, found.job) == ("marked", None, "")
    assert found.made_here
    assert found.watermark is not None
    assert found.watermark.job == "ffffff"
    assert found.watermark.chance < 1e-9


def test_credentials_of_somebody_else(
    dubbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = identity.identity()
    (tmp_path / "theirs.pem").write_text(theirs.anchor)
    monkeypatch.setenv(identity.VARIABLE, str(tmp_path / "nobody"))
    found = verify(dubbed)
    assert found.credentials is not None
    assert (found.verdict, found.credentials.state, found.made_here) == ("intact", "valid", False)
    trusted = verify(dubbed, trust=tmp_path / "theirs.pem")
    assert trusted.credentials is not None
    assert trusted.credentials.state == "trusted"
    assert not (tmp_path / "nobody").exists()
    (tmp_path / "none.pem").write_text("none")
    with pytest.raises(UsageError, match="holds no certificates"):
        verify(dubbed, trust=tmp_path / "none.pem")


def test_pictures_of_another_video_are_told(dubbed: Path, tmp_path: Path) -> None:
    """Somebody signs what the watermark says is another job's."""
    work = Work(comment="AI-generated.", job=JOB, avatar="somebody")
    marker = Marker(MARKED, work, 256, 256)
    other = remux(dubbed, tmp_path / "other.mp4")
    marker.finish(other)
    found = verify(other)
    assert found.verdict == "altered"
    assert "another video" in found.text


def test_matroska_has_the_watermark_and_tags(tmp_path: Path) -> None:
    found = verify(made(tmp_path / "out.mkv", Marks(aigc=True)))
    assert (found.verdict, found.credentials, found.job) == ("marked", None, JOB)
    assert found.source_type == "trainedAlgorithmicMedia"
    assert found.aigc is not None
    assert found.aigc["Label"] == "1"


def test_the_aigc_label_is_seen_and_read(tmp_path: Path) -> None:
    path = made(tmp_path / "out.mp4", Marks(aigc=True))
    found = verify(path)
    assert found.verdict == "intact"
    assert found.aigc is not None
    assert found.aigc["ProduceID"] == JOB[:32]
    assert "AI-generated" in probe_video(path).comment
    plain = np.full((100, 200, 3), 90, np.uint8)
    shown = labelled(plain)
    assert (shown != plain).any(2).mean() > 0.02
    marker = Marker(Marks(aigc=True), Work(comment="", job=JOB, avatar=""), 200, 100)
    late = Marker(MARKED, Work(comment="", job=JOB, avatar=""), 200, 100).mark(plain, 0)
    assert np.array_equal(marker.mark(plain, SHOWN_S), late)
    assert not np.array_equal(marker.mark(plain, 0), late)


def test_marks_are_left_out_for_a_reason_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = made(tmp_path / "out.mp4", Marks(off="a test of pixels"))
    assert "carries no marks, for the reason given: a test of pixels" in caplog.text
    assert "a test of pixels" in probe_video(path).comment
    found = verify(path)
    assert (found.verdict, found.watermark, found.credentials) == ("stated", None, None)
    with pytest.raises(UsageError, match="reason"):
        Marks(off=" ")
    with pytest.raises(UsageError, match="AIGC"):
        Marks(off="no", aigc=True)
    frame = np.zeros((64, 64, 3), np.uint8)
    work = Work(comment="", job=JOB, avatar="")
    assert Marker(UNMARKED, work, 64, 64).mark(frame, 0) is frame


def test_a_key_is_made_once_and_for_its_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new" / "credentials"
    monkeypatch.setenv(identity.VARIABLE, str(folder))
    assert identity.known() is None
    first, again = identity.identity(), identity.identity()
    assert first == again == identity.known()
    assert stat.S_IMODE((folder / identity.KEY).stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="key to sign with"):
        identity.identity(tmp_path / "none")
    other = tmp_path / "other" / "credentials"
    monkeypatch.setenv(identity.VARIABLE, str(other))
    identity.identity()
    (other / identity.CHAIN).write_text(first.chain)
    with pytest.raises(UsageError, match="do not belong together"):
        identity.identity()


def write_p256(folder: Path) -> Path:
    """A key and certificates of another kind, as somebody would bring them."""
    day, now = datetime.timedelta(days=1), datetime.datetime.now(datetime.UTC)
    root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    certificates = []
    for owner, name, is_root in ((key, "leaf", False), (root, "root", True)):
        names = [
            x509.Name(
                [
                    x509.NameAttribute(NameOID.COMMON_NAME, one),
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Studio"),
                ]
            )
            for one in (name, "root")
        ]
        usage = dict.fromkeys(
            (
                *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
                *("crl_sign", "encipher_only", "decipher_only"),
            ),
            False,
        )
        builder = (
            x509.CertificateBuilder(names[1], names[0], owner.public_key(), 7 + is_root)
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.BasicConstraints(is_root, None), True)
            .add_extension(
                x509.KeyUsage(digital_signature=not is_root, key_cert_sign=is_root, **usage), True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(owner.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), False
            )
        )
        if not is_root:
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purpose, False)
        certificates.append(builder.sign(root, hashes.SHA256()).public_bytes(Encoding.PEM))
    folder.mkdir()
    (folder / identity.CHAIN).write_bytes(b"".join(certificates))
    (folder / identity.KEY).write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return folder


def test_a_key_of_ones_own_signs(tmp_path: Path) -> None:
    folder = write_p256(tmp_path / "own")
    path = made(tmp_path / "out.mp4", Marks(credentials=str(folder)))
    assert identity.identity(folder).algorithm == "ES256"
    found = verify(path)
    assert found.credentials is not None
    assert (found.verdict, found.credentials.state) == ("intact", "valid")
    assert not found.made_here
    (tmp_path / "root.pem").write_text(identity.identity(folder).anchor)
    trusted = verify(path, trust=tmp_path / "root.pem").credentials
    assert trusted is not None
    assert (trusted.state, trusted.signer) == ("trusted", "leaf")


def test_the_command(dubbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(dubbed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "intact"
    assert main(["verify", str(samples.footage())]) == 5
    assert "Metadata alone" in capsys.readouterr().out
    plain = write_footage(tmp_path / "plain.mp4", pictures(3))
    assert main(["verify", str(plain)]) == 6
    assert "unmarked" in capsys.readouterr().out
    assert main(["verify", str(remux(dubbed, tmp_path / "r.mp4"))]) == 4
    assert main(["verify", str(tmp_path / "none.mp4")]) == 1
    with pytest.raises(MediaError, match="no such file"):
        verify(tmp_path / "none.mp4")
