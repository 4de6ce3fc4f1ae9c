"""The record contract, shared by the writer and the reader.

One record is one `tf.train.Example` in TFRecord framing, with the features
of `Record`. It takes protobuf and a CRC only, so data_prep starts in 0.2 s, on
machines without TensorFlow.

The framing of a record, all integers little-endian (tensorflow,
`core/lib/io/record_writer.h`): uint64 length, uint32 masked CRC-32C of the
length, the payload, uint32 masked CRC-32C of the payload.
"""

import dataclasses
import hashlib
import struct

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2
from google.protobuf import descriptor_pool
from google.protobuf import message_factory
from google.protobuf import text_format
from google.protobuf.message import DecodeError

HEADER_BYTES = 12
FOOTER_BYTES = 4

# One row per record of a split, in record order: where its payload lies (file
# number among the split's shards, byte offset, length in bytes), where in the
# payload the image lies, and what the record says of it. So an order can be
# planned without reading any image, and an image read without parsing; an epoch
# is a permutation of all records, read by index, which shuffles the whole split
# and goes on at any step without reading what came before.
INDEX_DTYPE = np.dtype(
    [
        ("shard", "<i4"),
        ("label", "<i4"),
        ("offset", "<i8"),
        ("bytes", "<i8"),
        ("image_offset", "<i8"),
        ("image_bytes", "<i8"),
        ("id", "<i8"),
        ("width", "<i4"),
        ("height", "<i4"),
    ]
)


@dataclasses.dataclass(frozen=True)
class Record:
    """One labelled image as it is stored.

    Attributes:
        image: JPEG or PNG bytes; or, in a data set of encoding "raw", the
            uint8 RGB pixels, `height * width * 3` bytes, row by row.
        label: Index of the class in the manifest's sorted class list.
        id: Identity of the image in every order, feature and prediction:
            `image_id(file)`.
        file: Path relative to the source folder, with forward slashes.
        width: Width of the stored image in pixels.
        height: Height of the stored image in pixels.
    """

    image: bytes
    label: int
    id: int
    file: str
    width: int
    height: int


def image_id(file: str) -> int:
    """Returns the id of an image: 63 bits of the SHA-256 of its relative path.

    It depends on nothing but the path, so adding images changes no other id.
    """
    digest = hashlib.sha256(file.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def serialize(record: Record) -> bytes:
    """Returns the record as a serialised `tf.train.Example`."""
    example = _EXAMPLE()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(record.image)
    feature["label"].int64_list.value.append(record.label)
    feature["id"].int64_list.value.append(record.id)
    feature["file"].bytes_list.value.append(
        record.file.encode("utf-8", "surrogateescape")
    )
    feature["width"].int64_list.value.append(record.width)
    feature["height"].int64_list.value.append(record.height)
    # Map entries have no order of their own; equal input must give equal bytes.
    return example.SerializeToString(deterministic=True)


def deserialize(payload: bytes) -> Record:
    """Returns the record that `serialize` gave as `payload`.

    Raises:
        ValueError: If it is something else.
    """
    try:
        feature = _EXAMPLE.FromString(payload).features.feature
        return Record(
            image=feature["image"].bytes_list.value[0],
            label=feature["label"].int64_list.value[0],
            id=feature["id"].int64_list.value[0],
            file=feature["file"]
            .bytes_list.value[0]
            .decode("utf-8", "surrogateescape"),
            width=feature["width"].int64_list.value[0],
            height=feature["height"].int64_list.value[0],
        )
    except (DecodeError, IndexError):
        raise ValueError("it holds no record of this project") from None


def frame(payload: bytes) -> bytes:
    """Returns `payload` in TFRecord framing, ready to be appended to a file."""
    length = struct.pack("<Q", len(payload))
    return b"".join(
        (
            length,
            struct.pack("<I", masked_crc(length)),
            payload,
            struct.pack("<I", masked_crc(payload)),
        )
    )


def masked_crc(data: bytes) -> int:
    """Returns the CRC-32C of `data`, masked as the TFRecord format asks.

    The mask is that of tensorflow, `core/lib/hash/crc32c.h`.
    """
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def check_frame(framed: bytes, length: int) -> bytes:
    """Returns the payload of a record in TFRecord framing.

    Args:
        framed: All that was read of it: `length` bytes and the framing, or
            fewer where the file ends.
        length: Bytes of payload that are expected.

    Raises:
        ValueError: Saying which part is damaged.
    """
    if len(framed) != HEADER_BYTES + length + FOOTER_BYTES:
        raise ValueError("the file ends within the record")
    (found,) = struct.unpack_from("<Q", framed)
    if found != length:
        raise ValueError(f"its length says {found}, expected {length}")
    (stored,) = struct.unpack_from("<I", framed, 8)
    if masked_crc(framed[:8]) != stored:
        raise ValueError("the checksum of its length is wrong")
    payload = framed[HEADER_BYTES:-FOOTER_BYTES]
    check_payload(payload, framed[-FOOTER_BYTES:])
    return payload


def check_payload(payload: bytes, footer: bytes) -> None:
    """Checks a payload by the 4 bytes that follow it.

    Raises:
        ValueError: If the checksum does not fit the payload.
    """
    if footer != struct.pack("<I", masked_crc(payload)):
        raise ValueError("the record's checksum does not fit its content")


# The messages of tensorflow, `core/example/feature.proto`, with its names and
# numbers of fields.
_EXAMPLE_PROTO = """
name: "shardtune/example.proto" package: "shardtune" syntax: "proto3"
message_type {
  name: "BytesList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
}
message_type {
  name: "FloatList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT }
}
message_type {
  name: "Int64List"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 }
}
message_type {
  name: "Feature"
  oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL oneof_index: 0
          type: TYPE_MESSAGE type_name: ".shardtune.BytesList" }
  field { name: "float_list" number: 2 label: LABEL_OPTIONAL oneof_index: 0
          type: TYPE_MESSAGE type_name: ".shardtune.FloatList" }
  field { name: "int64_list" number: 3 label: LABEL_OPTIONAL oneof_index: 0
          type: TYPE_MESSAGE type_name: ".shardtune.Int64List" }
}
message_type {
  name: "Features"
  nested_type {
    name: "FeatureEntry"
    options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL
            type: TYPE_MESSAGE type_name: ".shardtune.Feature" }
  }
  field { name: "feature" number: 1 label: LABEL_REPEATED
          type: TYPE_MESSAGE type_name: ".shardtune.Features.FeatureEntry" }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL
          type: TYPE_MESSAGE type_name: ".shardtune.Features" }
}
"""


def _example_class() -> type:
    """Builds the message class of `tf.train.Example` without TensorFlow."""
    # A private pool, so that it never meets TensorFlow's own registration.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(
        text_format.Parse(_EXAMPLE_PROTO, descriptor_pb2.FileDescriptorProto())
    )
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("shardtune.Example")
    )


_EXAMPLE = _example_class()
