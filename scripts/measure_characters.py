"""The character error rate of the features `characters` on GRID clips, from their sound tracks.

    python scripts/measure_characters.py GRID/s1 --clips GRID/protocol.json:test [--expert FOLDER]

The names of the clips spell what is said in them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from difftalker.data.footage import find_footage
from difftalker.data.speech import grid_sentence
from difftalker.media.audio import stream_audio
from difftalker.speech.characters import CharactersEncoder, character_error_rate, decode
from difftalker.speech.encoder import encode_all


def main() -> None:
    """Print what is heard in every clip, and the rate over all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("footage", type=Path, nargs="+")
    parser.add_argument("--clips", action="append", default=[])
    parser.add_argument("--expert", default="", help="a folder in place of the packaged expert")
    chosen = parser.parse_args()
    encoder = CharactersEncoder(folder=chosen.expert)
    videos = find_footage(chosen.footage, chosen.clips)
    true = [grid_sentence(video.stem) for video in videos]
    heard = [decode(encode_all(encoder, stream_audio(video))) for video in videos]
    for video, text, said in zip(videos, heard, true, strict=True):
        print(f"{video.stem}: {text}" + ("" if text == said else f"   (said: {said})"))
    right = sum(text == said for text, said in zip(heard, true, strict=True))
    rate = character_error_rate(heard, true)
    print(f"{len(videos)} clips, {right} without an error, character error rate {rate:.4f}")


if __name__ == "__main__":
    main()
