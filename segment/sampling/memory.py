"""What a process does with memory: pages that are kept, and (later) how much a plan may take.

Must not know a network.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library


def keep_freed_pages() -> bool:
    """Let freed memory stay with this process, for the whole process; False where the C library does not know how.

    The GNU C library gives every large block back to the system and takes it anew for the next activation, which the
    system then fills with zeros page by page: a quarter of an fp32 pass on a CPU. The peak is not changed by it.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return bool(libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)) and bool(libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1))
