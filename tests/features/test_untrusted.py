"""Formats read whole, headers that do not fit their files, and files that end the process that reads them."""

import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time

import cli
import damaged_files
import numpy as np
import pytest
import soundfile
from damaged_files import voice

from emoflax.errors import UserError
from emoflax.features import decode, flac, mpeg, untrusted

RATE_HZ, SECONDS = damaged_files.RATE_HZ, damaged_files.SECONDS


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return {path.name: path for path in damaged_files.write_recordings(folder)}


def test_another_process_reads_the_same_samples_and_raises_the_same_errors(whole, tmp_path):
    for path in (whole["a.flac"], whole["a.ogg"]):
        here, there = decode.decode(str(path), 0.2, 1.1), untrusted.decode(str(path), 0.2, 1.1)
        np.testing.assert_array_equal(here[0], there[0])
        assert here[1] == there[1]
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(UserError) as here:
        decode.decode(str(tmp_path / "a.wav"))
    with pytest.raises(UserError) as there:
        untrusted.decode(str(tmp_path / "a.wav"))
    assert str(here.value) == str(there.value)


# What the decoding process does, with a decoder in which some files end it or keep it for ever.
FRAGILE = """
import json, os, sys
sys.path[:] = json.loads(sys.argv[1])
from emoflax.features import decode, untrusted
untrusted._CPU_S, whole = 1.0, decode.decode
def fragile(path, **part):
    if 'killer' in path:
        os.kill(os.getpid(), 11)
    while 'endless' in path:
        pass
    if 'surprise' in path:
        raise IndexError('of a library')
    return whole(path, **part)
decode.decode = fragile
untrusted.serve()
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("killer.flac", "ended the decoding process .SIGSEGV."),
        ("endless.flac", "for ever"),
        ("surprise.flac", "IndexError"),
    ],
)
def test_a_file_that_ends_the_process_is_named_and_the_next_one_is_read(whole, tmp_path, monkeypatch, name, words):
    (tmp_path / name).write_bytes(whole["a.flac"].read_bytes())
    monkeypatch.setattr(untrusted, "_SERVE", FRAGILE)
    untrusted._kept.stop()
    assert len(untrusted.decode(str(whole["a.flac"]))[0])
    with pytest.raises(UserError, match=f"{name} .*{words}"):
        untrusted.decode(str(tmp_path / name))
    assert len(untrusted.decode(str(whole["a.flac"]))[0])
    untrusted._kept.stop()


def test_a_relative_path_is_of_the_callers_folder_wherever_the_process_was_started(whole, tmp_path, monkeypatch):
    untrusted.decode(str(whole["a.flac"]))  # starts it
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.flac").write_bytes(whole["a.flac"].read_bytes())
    assert len(untrusted.decode("here.flac")[0]) == RATE_HZ * SECONDS
    (tmp_path / "bad.flac").write_text("no sound")
    with pytest.raises(UserError, match="^bad.flac"):
        untrusted.decode("bad.flac")


def test_bytes_in_memory_are_decoded_as_their_file_is_and_damage_is_named_as_the_caller_does(whole):
    decoder = untrusted.Decoder()
    try:
        for path in whole.values():
            here, there = untrusted.decode(str(path)), decoder.decode(path.read_bytes(), path.name, 10**6)
            np.testing.assert_array_equal(here[0], there[0], path.name)
            assert here[1] == there[1]
            with pytest.raises(UserError, match=rf"^{path.name}(?!.*/proc)"):
                decoder.decode(b"no sound" * 99, path.name, 10**6)
        for name in ("a.flac", "a.m4a", "a.mp3"):
            with pytest.raises(UserError, match=f"{name} .*(up to|more than) "):
                decoder.decode(whole[name].read_bytes(), name, 20_000)
    finally:
        decoder.stop()


def test_a_process_that_somebody_killed_in_between_is_started_again(whole):
    untrusted.decode(str(whole["a.wav"]))
    os.kill(untrusted._kept._process.pid, signal.SIGKILL)
    assert len(untrusted.decode(str(whole["a.wav"]))[0])


def test_the_process_ends_with_its_parent_and_a_script_needs_no_guard(whole, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from emoflax.features import untrusted\n"
        f"print(len(untrusted.decode({str(whole['a.flac'])!r})[0]), untrusted._kept._process.pid, flush=True)\n"
        "import os; os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=cli.ENVIRONMENT | {"PYTHONPATH": str(cli.ROOT)}
    )
    samples, child = map(int, done.stdout.split())
    assert samples == RATE_HZ * SECONDS
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child}")


@pytest.mark.parametrize("rate_hz", [1, 2, 100, 999, 768_001, 4_000_000_000])
def test_an_absurd_rate_is_refused_by_name(whole, tmp_path, rate_hz):
    content = whole["a.wav"].read_bytes()
    (tmp_path / "absurd.wav").write_bytes(content[:24] + struct.pack("<I", rate_hz) + content[28:])
    with pytest.raises(UserError, match=r"absurd\.wav"):
        untrusted.decode(str(tmp_path / "absurd.wav"))


def test_an_absurd_length_is_refused_before_it_is_read(whole, tmp_path):
    content = bytearray(whole["a.flac"].read_bytes())
    content[21] |= 15  # of the 36 bits of the number of samples
    (tmp_path / "long.flac").write_bytes(content)
    begin = time.perf_counter()
    with pytest.raises(UserError, match=r"long\.flac says that it lasts [\d,]+ h"):
        untrusted.decode(str(tmp_path / "long.flac"))
    assert time.perf_counter() - begin < 10


@pytest.mark.parametrize("name", ["a.wav", "big.wav", "rf64.wav", "a.aiff", "a.au", "a.w64", "a.caf", "a.mp3", "a.ogg",
                                  "a.opus", "a.flac", "a.m4a", "a.sph"])  # fmt: skip
@pytest.mark.parametrize("share", [0.5, 0.95, 0.001])
def test_a_cut_file_of_any_format_is_noticed(whole, tmp_path, name, share):
    content = whole[name].read_bytes()
    (tmp_path / name).write_bytes(content[: max(1, int(share * len(content)))])
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        untrusted.decode(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "mark", "at", "form"),
    [("a.wav", b"data", 4, "<I"), ("big.wav", b"data", 4, ">I"), ("a.aiff", b"SSND", 4, ">I"),
     ("a.au", b".snd", 8, ">I"), ("rf64.wav", b"ds64", 16, "<Q"), ("a.w64", b"data", 16, "<Q"),
     ("a.caf", b"data", 4, ">Q")],
)  # fmt: skip
def test_a_header_that_names_fewer_bytes_than_there_are_is_refused_by_name(whole, tmp_path, name, mark, at, form):
    content = bytearray(whole[name].read_bytes())
    place = content.index(mark) + at
    content[place : place + struct.calcsize(form)] = struct.pack(form, 16_000)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} (has a wrong header|is truncated)"):
        untrusted.decode(str(tmp_path / name))


@pytest.mark.parametrize("name", ["slow.wav", "slow.au"])
def test_no_part_of_a_short_or_slow_recording_is_lost_to_a_header(tmp_path, name):
    """4,096 bytes, which any tag may have, are half a second of eight bits at 8 kHz."""
    subtype = "PCM_U8" if name.endswith("wav") else "PCM_S8"
    soundfile.write(tmp_path / name, voice(rate_hz=8_000), 8_000, subtype=subtype)
    content = bytearray((tmp_path / name).read_bytes())
    mark, form = {"slow.wav": (b"data", "<I"), "slow.au": (b".snd", ">I")}[name]
    place = content.index(mark) + (8 if name.endswith("au") else 4)
    (length,) = struct.unpack_from(form, content, place)
    for missing, is_lost in ((100, False), (200, True), (4_000, True)):
        struct.pack_into(form, content, place, length - missing)
        (tmp_path / name).write_bytes(content)
        if is_lost:
            with pytest.raises(UserError, match="has a wrong header"):
                untrusted.decode(str(tmp_path / name))
        else:
            assert len(untrusted.decode(str(tmp_path / name))[0]) >= 0.99 * 8_000 * SECONDS


def test_the_end_of_an_mp3_at_a_low_rate_is_not_taken_for_a_tag(whole, tmp_path):
    content = whole["bare.mp3"].read_bytes()
    damaged = bytearray(content)
    damaged[-2_000:] = random.Random(0).randbytes(2_000)  # a third of a second
    (tmp_path / "a.mp3").write_bytes(damaged)
    with pytest.raises(UserError, match="is damaged at byte"):
        untrusted.decode(str(tmp_path / "a.mp3"))
    id3v1 = b"TAG" + b"x" * 124 + b"\xff"
    for tail in (
        id3v1,
        bytes(300) + id3v1,
        b"\0" + id3v1,
        bytes(9) + b"APETAGEX" + bytes(range(256)) * 4,
        b"\xaa" * 999,
    ):
        (tmp_path / "a.mp3").write_bytes(content + tail)
        assert len(untrusted.decode(str(tmp_path / "a.mp3"))[0]) / RATE_HZ == pytest.approx(SECONDS, abs=0.12), tail


def test_an_mp3_whose_first_frame_is_damaged_is_refused_and_one_with_other_bytes_before_it_read(whole, tmp_path):
    content = whole["bare.mp3"].read_bytes()
    (tmp_path / "a.mp3").write_bytes(content[:2] + b"\xff\xff" + content[4:])
    with pytest.raises(UserError, match="is damaged at byte 0"):
        untrusted.decode(str(tmp_path / "a.mp3"))
    id3v2 = b"ID3\3\0\0\0\0\0\x0a" + bytes(10)
    for before in (bytes(500), b"\xff" * 100, id3v2 + b"\xff" * 40, id3v2):
        (tmp_path / "a.mp3").write_bytes(before + content)
        assert len(untrusted.decode(str(tmp_path / "a.mp3"))[0]) / RATE_HZ == pytest.approx(SECONDS, abs=0.12), before


@pytest.mark.parametrize("form", ["VOC", "IRCAM", "MAT5", "MAT4", "PAF", "SVX", "HTK", "AVR", "PVF"])
@pytest.mark.parametrize("share", [0.6, 1.0])
def test_formats_that_may_have_been_cut_unnoticed_are_refused_by_name(tmp_path, form, share):
    soundfile.write(tmp_path / "a.wav", voice(), RATE_HZ, format=form, subtype="PCM_16")
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"a\.wav is .*(convert it to WAV or FLAC|cannot be decoded|can be decoded)"):
        untrusted.decode(str(tmp_path / "a.wav"))


def test_a_nist_file_is_read_under_any_name_whatever_else_its_header_tells(whole, tmp_path):
    content, path = whole["a.sph"].read_bytes(), tmp_path / "SA1.WAV"  # as in TIMIT
    same = untrusted.decode(str(whole["a.wav"]))[0]
    told = content[: content.index(b"end_head")].replace(b"sample_count -i 24000", b"sample_count -i  24000 ")
    more = b"; a comment\n\nspeaker-id -s4 M\xfcll\nnote -s12 two\nlines up\nsample_count -i 7\n"
    long = (told + more).replace(b"   1024\n", b"   8192\n") + b"x -s5000 " + b"y" * 5_000 + b"\nend_head\n"
    for written in (content, (told + more + b"end_head\n").ljust(1024) + content[1024:],
                    long.ljust(8192, b"\0") + content[1024:], content + bytes(1000)):  # fmt: skip
        path.write_bytes(written)
        np.testing.assert_array_equal(untrusted.decode(str(path))[0][: len(same)], same)
    path.write_bytes(content + b"TAG" + b"x" * 125)  # libsndfile would play it
    with pytest.raises(UserError, match="has a wrong header"):
        untrusted.decode(str(path))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"sample_count", b"sample_cOunt", "does not say how long it is"),
        (b"sample_n_bytes", b"sample_N_bytes", "does not say how long it is"),
        (b"   1024", b"   9999", "is truncated"),
        (b"sig_bits -i", b"sig_bits\0-i", "header is none"),
        (b"end_head", b"end_heaD", "header is none"),
        (b"-s3 pcm", b"-s26 pcm,embedded-shorten-v2.00", "is compressed .* unpack it with sph2pipe"),
        (b"-i 24000", b"-i 25000", "is truncated"),
        (b"-i 24000", b"-i 20000", "has a wrong header"),
    ],
)
def test_a_nist_file_that_is_damaged_or_compressed_is_refused_by_name(whole, tmp_path, old, new, words):
    (tmp_path / "SA1.WAV").write_bytes(whole["a.sph"].read_bytes().replace(old, new))
    with pytest.raises(UserError, match=rf"SA1\.WAV .*{words}"):
        untrusted.decode(str(tmp_path / "SA1.WAV"))


@pytest.mark.parametrize(("name", "mark", "at"), [("rf64.wav", b"fmt ", 26), ("a.caf", b"desc", 35)])
def test_numbers_of_a_header_that_cannot_be_are_refused_though_decoders_pass_over_them(whole, tmp_path, name, mark, at):
    content = bytearray(whole[name].read_bytes())
    content[content.index(mark) + at] = 0x7F
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        untrusted.decode(str(tmp_path / name))


def test_chunks_and_tags_after_the_sound_are_no_sound(whole, tmp_path):
    content = whole["a.wav"].read_bytes()
    listed = b"LIST" + struct.pack("<I", 9000) + random.Random(0).randbytes(9000)
    id3v1 = b"TAG" + b"x" * 124 + b"\xff"
    tails = [listed, listed[:-1], b"\0" + listed, listed[:400], id3v1, bytes(300) + id3v1, bytes(64) + b"\xaa" * 900,
             bytes(20_000), "gespr\u00e4ch, \u4f60\u597d\n".encode() * 90, b"_PMX" + bytes(range(256)) * 9]  # fmt: skip
    for tail in tails:
        (tmp_path / "a.wav").write_bytes(content + tail)
        assert len(untrusted.decode(str(tmp_path / "a.wav"))[0]) == RATE_HZ * SECONDS
    (tmp_path / "a.wav").write_bytes(content + random.Random(0).randbytes(900))
    with pytest.raises(UserError, match="has a wrong header"):
        untrusted.decode(str(tmp_path / "a.wav"))


def test_joined_recordings_are_read_to_the_last_one(whole, tmp_path):
    joined = tmp_path / "joined"
    for names in (("a.mp3", "vbr.mp3"), ("bare.mp3", "bare.mp3"), ("a.ogg", "a.ogg"), ("a.opus", "a.opus")):
        joined.write_bytes(b"".join(whole[name].read_bytes() for name in names))
        samples, rate_hz = untrusted.decode(str(joined))
        assert len(samples) / rate_hz == pytest.approx(2 * SECONDS, abs=0.15), names
        late, _ = untrusted.decode(str(joined), SECONDS + 0.2, SECONDS + 0.4)
        np.testing.assert_allclose(late, samples[round((SECONDS + 0.2) * rate_hz) :][: len(late)], atol=2e-2)


def test_recordings_of_two_codecs_in_one_file_are_refused(whole, tmp_path):
    (tmp_path / "a.ogg").write_bytes(whole["a.ogg"].read_bytes() + whole["a.opus"].read_bytes())
    with pytest.raises(UserError, match=r"a\.ogg changes its sample rate, channels or codec"):
        untrusted.decode(str(tmp_path / "a.ogg"))


def test_a_variable_mp3_without_its_header_is_read_whole(whole, tmp_path):
    content = whole["vbr.mp3"].read_bytes()
    (part,) = mpeg.parts("", content)
    (tmp_path / "a.mp3").write_bytes(content[part.tag_bytes :])
    assert len(untrusted.decode(str(tmp_path / "a.mp3"))[0]) / RATE_HZ == pytest.approx(SECONDS, abs=0.12)


def test_a_flac_of_unknown_length_is_read_whole(whole, tmp_path):
    content = bytearray(whole["a.flac"].read_bytes())
    content[21:26] = bytes([content[21] & 0xF0, 0, 0, 0, 0])
    (tmp_path / "a.flac").write_bytes(content)
    assert flac.with_length(bytes(content)) == whole["a.flac"].read_bytes()[:26]
    np.testing.assert_array_equal(*(untrusted.decode(str(p))[0] for p in (tmp_path / "a.flac", whole["a.flac"])))


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    pointer = tmp_path / "pointer.wav"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    begin = time.perf_counter()
    for path, words in ((tmp_path / "pipe.wav", "named pipe"), ("/dev/zero", "a device"), (tmp_path, "a folder"),
                        (pointer, "git lfs pull")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            untrusted.decode(str(path))
    assert time.perf_counter() - begin < 15


def test_noise_under_a_name_that_libsndfile_takes_for_raw_sound_is_refused(tmp_path):
    for name in ("a.au", "a.snd", "a.gsm", "a.vox"):
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(30_000))
        with pytest.raises(UserError, match="not sound"):
            untrusted.decode(str(tmp_path / name))


def test_without_pyav_the_sentence_names_the_extra(whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"a\.m4a.*emoflax\[av\]"):
        decode.decode(str(whole["a.m4a"]))


def test_several_threads_share_the_process(whole):
    lengths = []
    threads = [
        threading.Thread(target=lambda: lengths.append(len(untrusted.decode(str(whole["a.flac"]))[0])))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [RATE_HZ * SECONDS] * 8


def test_a_gsm_recording_gives_a_spectrogram_of_any_part(whole):
    path = str(whole["gsm.wav"])
    samples, rate_hz = untrusted.decode(path)
    part, _ = untrusted.decode(path, 0.5, 1.0)
    np.testing.assert_allclose(part, samples[rate_hz // 2 : rate_hz], atol=1e-6)
