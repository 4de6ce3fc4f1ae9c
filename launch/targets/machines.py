"""Machine types of the clouds and their GPUs, from the clouds' own tables.

Google: cloud.google.com/compute/docs/gpus; Amazon:
docs.aws.amazon.com/sagemaker, "instance types". Imports nothing local.
"""

import re

# Machines whose GPUs are part of them: type of the GPU, number by size.
_GOOGLE = {
    "g2-standard": (
        "NVIDIA_L4",
        {"4": 1, "8": 1, "12": 1, "16": 1, "32": 1, "24": 2, "48": 4, "96": 8},
    ),
    "a2-highgpu": ("NVIDIA_TESLA_A100", {"1g": 1, "2g": 2, "4g": 4, "8g": 8}),
    "a2-megagpu": ("NVIDIA_TESLA_A100", {"16g": 16}),
    "a2-ultragpu": ("NVIDIA_A100_80GB", {"1g": 1, "2g": 2, "4g": 4, "8g": 8}),
    "a3-highgpu": ("NVIDIA_H100_80GB", {"1g": 1, "2g": 2, "4g": 4, "8g": 8}),
    "a3-megagpu": ("NVIDIA_H100_MEGA_80GB", {"8g": 8}),
    "a3-ultragpu": ("NVIDIA_H200_141GB", {"8g": 8}),
    "a4-highgpu": ("NVIDIA_B200", {"8g": 8}),
}
# To machines of the N1 series these are attached.
_ATTACHED = {
    "NVIDIA_TESLA_K80": (1, 2, 4, 8),
    "NVIDIA_TESLA_P4": (1, 2, 4),
    "NVIDIA_TESLA_P100": (1, 2, 4),
    "NVIDIA_TESLA_T4": (1, 2, 4),
    "NVIDIA_TESLA_V100": (1, 2, 4, 8),
}
# The type that stands for a family where only the GPUs are given.
_USUAL_SIZES = {"g2-standard": ("8", "24", "48", "96")}

AMAZON_DEFAULT = "ml.g5.xlarge"
_OF_SIZES = {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}
_AMAZON = {
    "g4dn": {"12xlarge": 4},
    "g5": _OF_SIZES,
    "g6": _OF_SIZES,
    "g6e": _OF_SIZES,
    "p3": {"8xlarge": 4, "16xlarge": 8},
    "p3dn": {"24xlarge": 8},
    "p4d": {"24xlarge": 8},
    "p4de": {"24xlarge": 8},
    "p5": {"4xlarge": 1, "48xlarge": 8},
    "p5e": {"48xlarge": 8},
    "p5en": {"48xlarge": 8},
    "p6-b200": {"48xlarge": 8},
}


def google_machine(accelerator: str, gpus: int) -> str:
    """Returns a machine type with so many GPUs of a type, "" for none.

    Args:
        accelerator: As Vertex AI names it, such as NVIDIA_L4.
        gpus: Number of them, 0 for a machine without.
    """
    if not gpus:
        return "n2-standard-8"
    for family, (gpu, sizes) in _GOOGLE.items():
        for size in _USUAL_SIZES.get(family, sizes):
            if gpu == accelerator and sizes[size] == gpus:
                return f"{family}-{size}"
    if gpus in _ATTACHED.get(accelerator, ()):
        return f"n1-standard-{8 * gpus}"
    return ""


def google_problem(machine: str, accelerator: str, gpus: int) -> str:
    """Says why a machine cannot have these GPUs, "" if it can.

    A family that is not in the tables is not judged.

    Args:
        machine: Such as g2-standard-8.
        accelerator: Type of the GPUs.
        gpus: Number of them.
    """
    if not re.fullmatch(r"[a-z]\d[a-z]*(-[a-z0-9]+)+", machine):
        return "Google's machine types look like g2-standard-8"
    family, _, size = machine.rpartition("-")
    if family in _GOOGLE:
        gpu, sizes = _GOOGLE[family]
        if size not in sizes:
            return f"of {family} there are {', '.join(sizes)}"
        if (gpus, accelerator) != (sizes[size], gpu):
            return (
                f"it has {sizes[size]} {gpu}: pass --gpus={sizes[size]} "
                f"--accelerator={gpu}"
            )
        return ""
    if not gpus:
        return ""
    if not machine.startswith("n1-"):
        return "GPUs are attached to n1 machines only, or part of g2, a2, a3"
    if gpus not in _ATTACHED.get(accelerator, ()):
        return (
            f"an n1 machine takes no {gpus} {accelerator}: expected one of "
            f"{', '.join(_ATTACHED)}, 1, 2, 4 (or 8) of it"
        )
    return ""


def amazon_gpus(instance: str) -> int | None:
    """Returns the number of GPUs of an instance, None if it is unknown.

    Args:
        instance: Such as ml.g5.xlarge.
    """
    _, _, rest = instance.partition(".")
    family, _, size = rest.partition(".")
    if family in _AMAZON:
        return _AMAZON[family].get(size, 1)
    if family[:1] in "cmrt":
        return 0
    return None
