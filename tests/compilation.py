"""C++ modules that tests compile."""

from torch.utils import cpp_extension

MOST = 8000  # characters


def load(**arguments):
    """As PyTorch does. Of what a compiler has to say the beginning alone: pytest keeps it for each test that wanted the
    module, and of thousands of them that was all of the machine's memory.
    """
    try:
        return cpp_extension.load(**arguments)
    except RuntimeError as error:
        raise RuntimeError(str(error)[:MOST]) from None
