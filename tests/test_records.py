"""The record contract, read by TensorFlow's own reader."""

import numpy as np
import pytest

from data_prep.dataset import records

RECORD = records.Record(
    image=bytes(range(256)) * 3,
    label=3,
    id=records.image_id("dog house/\udcff é.jpg"),
    file="dog house/\udcff é.jpg",  # a name that is no UTF-8
    width=7,
    height=9,
)


def test_round_trip():
    payload = records.serialize(RECORD)
    assert records.deserialize(payload) == RECORD
    assert records.serialize(RECORD) == payload


def test_tensorflow_reads_what_we_write(tf, tmp_path):
    path = tmp_path / "records"
    path.write_bytes(records.frame(records.serialize(RECORD)) * 3)
    payloads = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    assert payloads == [records.serialize(RECORD)] * 3
    example = tf.train.Example.FromString(payloads[0])
    assert sorted(example.features.feature) == [
        "file",
        "height",
        "id",
        "image",
        "label",
        "width",
    ]


def test_every_flipped_bit_of_a_payload_is_noticed():
    framed = records.frame(b"some payload")[records.HEADER_BYTES :]
    for bit in range(8 * len(framed)):
        damaged = bytearray(framed)
        damaged[bit // 8] ^= 1 << bit % 8
        content = bytes(damaged)
        with pytest.raises(ValueError, match="checksum"):
            records.check_payload(content[:-4], content[-4:])
    records.check_payload(b"some payload", framed[-4:])
    with pytest.raises(ValueError, match="checksum"):
        records.check_payload(b"some payload", framed[-4:-1])  # cut


def test_ids_are_stable_and_fit_int64():
    assert records.image_id("cat/1.jpg") == 3577269738800671588
    ids = [records.image_id(f"{n}.jpg") for n in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert np.array(ids, np.int64).min() >= 0
