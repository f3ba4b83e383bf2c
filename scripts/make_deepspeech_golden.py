"""Make tests/golden/deepspeech*: tiny models in DeepSpeech's formats, with TensorFlow's answers.

    pip install tensorflow-cpu python_speech_features   (into an environment of their own)
    python scripts/make_deepspeech_golden.py

The graphs have the operations and names of mozilla/DeepSpeech v0.9.3 and v0.1.0, at random weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
SAMPLES, WIDTH, CELLS, CHARACTERS = 12_800, 6, 5, 29
INPUTS = 19 * 26


def sound() -> Floats:
    """Four fifths of a second of noise that swells and fades."""
    rng = np.random.default_rng(0)
    swell = np.sin(np.linspace(0, 3 * np.pi, SAMPLES)) ** 2
    steps = np.rint(32768 * (rng.normal(0, 0.2, SAMPLES) * swell).clip(-0.9, 0.9))
    return np.asarray(steps / 32768, np.float32)


def weights(last: int) -> dict[int, tuple[Floats, Floats]]:
    """Random layers; ``last`` is the width of what the LSTM gives."""
    rng = np.random.default_rng(1)
    sizes = {1: (INPUTS, WIDTH), 2: (WIDTH, WIDTH), 3: (WIDTH, 7), 5: (last, WIDTH)}
    sizes[6] = (WIDTH, CHARACTERS)
    return {
        layer: (
            rng.normal(0, 1.5 / np.sqrt(size[0]), size).astype(np.float32),
            rng.normal(0, 0.5, size[1]).astype(np.float32),
        )
        for layer, size in sizes.items()
    }


def cell(seed: int) -> tuple[Floats, Floats]:
    """A random kernel and bias."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(0, 0.5, (7 + CELLS, 4 * CELLS))
    return kernel.astype(np.float32), rng.normal(0, 0.5, 4 * CELLS).astype(np.float32)


def lstm(tf: Any, x: Any, kernel: Any, bias: Any, *, forget_bias: float, clip: float) -> Any:
    """TensorFlow's fused LSTM over (T, D) -> (T, cells)."""
    nothing = tf.zeros([1, CELLS])
    peephole = tf.zeros([CELLS])
    steps = tf.cast(tf.shape(x)[0], tf.int64)
    found = tf.raw_ops.BlockLSTM(
        seq_len_max=steps, x=x[:, None], cs_prev=nothing, h_prev=nothing, w=kernel,
        wci=peephole, wcf=peephole, wco=peephole, b=bias,
        forget_bias=forget_bias, cell_clip=clip, use_peephole=False,
    )  # fmt: skip
    return found.h[:, 0]


def new_model(tf: Any, clip: float) -> tuple[bytes, dict[str, Floats]]:
    """Version 0.9: samples to cepstra, overlapping windows of cepstra to logits."""
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        samples = v1.placeholder(tf.float32, [None], "input_samples")
        spectrogram = tf.raw_ops.AudioSpectrogram(
            input=samples[:, None], window_size=512, stride=320, magnitude_squared=True
        )
        mfccs = tf.raw_ops.Mfcc(
            spectrogram=spectrogram, sample_rate=16_000, dct_coefficient_count=26,
            upper_frequency_limit=8000.0,
        )[0]  # fmt: skip
        x = v1.placeholder(tf.float32, [None, INPUTS], "input_node")
        layers = {
            n: (tf.constant(w, name=f"layer_{n}/weights"), tf.constant(b, name=f"layer_{n}/bias"))
            for n, (w, b) in weights(CELLS).items()
        }
        name = "cudnn_lstm/rnn/multi_rnn_cell/cell_0/cudnn_compatible_lstm_cell"
        kernel, bias = (
            tf.constant(value, name=f"{name}/{part}")
            for part, value in zip(("kernel", "bias"), cell(2), strict=True)
        )
        y = x
        for n in (1, 2, 3):
            y = tf.minimum(tf.nn.relu(tf.matmul(y, layers[n][0]) + layers[n][1]), 20.0)
        y = lstm(tf, y, kernel, bias, forget_bias=0.0, clip=clip)
        y = tf.minimum(tf.nn.relu(tf.matmul(y, layers[5][0]) + layers[5][1]), 20.0)
        y = tf.matmul(y, layers[6][0]) + layers[6][1]
        with v1.Session() as session:
            padded = np.pad(sound(), (0, 512 - 320))
            cepstra = session.run(mfccs, {samples: padded})
            logits = session.run(y, {x: windows(cepstra)})
        return graph.as_graph_def().SerializeToString(), {"cepstra": cepstra, "logits": logits}


def old_model(tf: Any) -> tuple[bytes, dict[str, Floats]]:
    """Version 0.1: both directions, whitened cepstra of python_speech_features."""
    from python_speech_features import mfcc

    padded = np.pad(sound(), (0, 400))
    cepstra = mfcc(np.rint(padded * 32768), samplerate=16_000, numcep=26, nfft=512)[::2]
    cepstra = cepstra[: SAMPLES // 320]
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, INPUTS], "input_node")
        layers = {
            n: (tf.constant(w, name=f"h{n}"), tf.constant(b, name=f"b{n}"))
            for n, (w, b) in weights(2 * CELLS).items()
        }
        cells = {
            way: [
                tf.constant(value, name=f"bidirectional_rnn/{way}/basic_lstm_cell/{part}")
                for part, value in zip(("kernel", "bias"), cell(seed), strict=True)
            ]
            for way, seed in (("fw", 2), ("bw", 3))
        }
        frozen = graph.as_graph_def().SerializeToString()  # no fused cell is in it, as then
        y = x
        for n in (1, 2, 3):
            y = tf.minimum(tf.nn.relu(tf.matmul(y, layers[n][0]) + layers[n][1]), 20.0)
        on = lstm(tf, y, *cells["fw"], forget_bias=1.0, clip=-1.0)
        back = lstm(tf, tf.reverse(y, [0]), *cells["bw"], forget_bias=1.0, clip=-1.0)
        y = tf.concat([on, tf.reverse(back, [0])], 1)
        y = tf.minimum(tf.nn.relu(tf.matmul(y, layers[5][0]) + layers[5][1]), 20.0)
        y = tf.matmul(y, layers[6][0]) + layers[6][1]
        heard = windows(cepstra.astype(np.float32))
        heard = (heard - heard.mean()) / heard.std()
        with v1.Session() as session:
            logits = session.run(y, {x: heard})
    return frozen, {"cepstra": cepstra.astype(np.float32), "logits": logits}


def windows(cepstra: Floats) -> Floats:
    """(T, 26) -> (T, 494): nine steps of context on either side, zeros at the ends."""
    padded = np.pad(cepstra, ((9, 9), (0, 0)))
    return np.stack([padded[i : i + 19].ravel() for i in range(len(cepstra))])


def main() -> None:
    """Write the files."""
    import tensorflow as tf

    answers: dict[str, Floats] = {}
    for name, (graph, found) in {
        "deepspeech_09": new_model(tf, -1.0),
        "deepspeech_clipped": new_model(tf, 0.4),
        "deepspeech_01": old_model(tf),
    }.items():
        (GOLDEN / f"{name}.pb").write_bytes(graph)
        answers |= {f"{name}_{key}": value for key, value in found.items()}
    np.savez_compressed(GOLDEN / "deepspeech.npz", allow_pickle=False, samples=sound(), **answers)


if __name__ == "__main__":
    main()
