"""python stubs.py TORCH_LIB_DIR OUT: empty shared libraries in the place of CUDA's.

A Linux wheel of torch wants CUDA's libraries when it is loaded, several GB of nvidia-* wheels. To test its CPU code it is enough
that they exist: each stub has the symbols and symbol versions that torch asks for, and every function answers "no device".
Needs gcc and binutils.
"""

import collections
import pathlib
import re
import subprocess
import sys


NO_DEVICE = 100  # cudaErrorNoDevice
SYMBOL = r"\bU ((?:__)?(?:cu[A-Za-z]|nccl|nvrtc|nvtx|nvJit|nvshmem)\w*)(?:@+(\S+))?"


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def wanted(torch_lib: pathlib.Path) -> tuple[set[str], dict[str, set[str]], dict[str | None, set[str]]]:
    """The libraries torch needs, the symbol versions each must have, and the symbols asked for under each version."""
    needed: set[str] = set()
    versions: dict[str, set[str]] = collections.defaultdict(set)
    symbols: dict[str | None, set[str]] = collections.defaultdict(set)
    for library in sorted(torch_lib.glob("*.so*")):
        needed |= set(re.findall(r"NEEDED.*\[(.*?)\]", output("readelf", "-dW", str(library))))
        current = None
        for line in output("readelf", "-VW", str(library)).splitlines():
            if match := re.search(r"Version: \d+\s+File: (\S+)", line):
                current = match[1]
            elif current and (match := re.search(r"Name: (\S+)\s+Flags", line)):
                versions[current].add(match[1])
        for match in re.finditer(SYMBOL, output("nm", "-D", "--undefined-only", str(library))):
            symbols[match[2]].add(match[1])
    missing = {name for name in needed if re.match(r"lib(cu|nccl|nv)", name) and not (torch_lib / name).exists()}
    return missing, versions, symbols


def body(symbol: str) -> str:
    if symbol == "__cudaRegisterFatBinary":
        return f"static void *handle; void **{symbol}(void *p) {{ return &handle; }}"
    if symbol.startswith("__cuda"):
        return f"int {symbol}() {{ return 0; }}"
    if symbol in ("cudaGetErrorString", "cudaGetErrorName"):
        return f'const char *{symbol}(int e) {{ return "stub"; }}'
    return f"int {symbol}() {{ return {NO_DEVICE}; }}"


def main(torch_lib: pathlib.Path, out: pathlib.Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    missing, versions, symbols = wanted(torch_lib)
    for name in sorted(missing):
        # A library without versions may be asked for any of the unversioned symbols.
        mine = set().union(*(symbols[v] for v in versions[name])) | (set() if versions[name] else symbols[None])
        source = out / f"{name}.c"
        source.write_text("\n".join(["int snn_functional_stub;", *map(body, sorted(mine))]))
        command = ["gcc", "-w", "-shared", "-fPIC", str(source), f"-Wl,-soname,{name}", "-o", str(out / name)]
        if versions[name]:
            script = out / f"{name}.map"
            blocks = (
                f"{v} {{ global: {'*' if i == 0 else f'none{i}'}; }};" for i, v in enumerate(sorted(versions[name]))
            )
            script.write_text("\n".join(blocks))
            command.append(f"-Wl,--version-script={script}")
        subprocess.run(command, check=True)
        source.unlink()
    print(len(missing), "stubs:", *sorted(missing))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
