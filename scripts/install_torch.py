"""Install torch into this environment: the CPU build where there is no GPU, for PyPI's Linux build brings gigabytes of CUDA.

usage: python scripts/install_torch.py "torch==2.13.0"
"""

import os
import shutil
import subprocess
import sys
import urllib.request

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def reachable(url: str) -> bool:
    """Does the index answer within five seconds?"""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5):
            return True
    except OSError:
        return False


def main(requirement: str) -> int:
    """Ask pip for the CPU build, from the index of PyTorch only where no index or folder is set and it answers."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    configured = any(
        os.environ.get(k) for k in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONFIG_FILE")
    )
    wants_cpu = sys.platform == "linux" and not shutil.which("nvidia-smi")
    extra = ["--index-url", CPU_INDEX] if wants_cpu and not configured and reachable(f"{CPU_INDEX}/torch/") else []
    print(f"installing {requirement} ({'the CPU build' if wants_cpu else 'the default build'}), once", flush=True)
    return subprocess.run([*pip, requirement, *extra]).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
