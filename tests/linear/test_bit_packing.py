import subprocess
import sys

import pytest
import torch

from slimsweep.linear.bit_packing import pack, unpack


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("along", [0, 1])
def test_what_is_packed_is_unpacked_and_leaves_no_gaps(bits, along):
    codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (64, 96), dtype=torch.int8)
    words = pack(codes, bits, along)
    assert words.dtype == torch.int32 and words.numel() * 32 == codes.numel() * bits
    assert torch.equal(unpack(words, bits, (64, 96), along), codes)


def test_techniques_that_pack_are_known_without_importing_compressed_tensors():
    code = "import sys, slimsweep.techniques.quantization.gptq, slimsweep.linear.base; slimsweep.linear.base.kinds()"
    code += "; print('compressed_tensors' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False"]
