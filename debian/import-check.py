"""Import every module of the program and use every compiled library, from the tree that is about to be packed.

Runs after strip: import-check.py APP VENDOR
"""

import importlib
import pkgutil
import sys

sys.dont_write_bytecode = True
sys.path[:0] = sys.argv[1:]

import fluxedge  # noqa: E402

names = [module.name for module in pkgutil.walk_packages(fluxedge.__path__, "fluxedge.")]
names = [name for name in names if not name.endswith("__main__")]
for name in names:
    importlib.import_module(name)

import lupa.lua54  # noqa: E402
import wasmtime  # noqa: E402

assert lupa.lua54.LuaRuntime().eval("6*7") == 42
for target in (None, "pulley64"):  # compiled, and the interpreter
    config = wasmtime.Config()
    if target:
        config.target = target
    store = wasmtime.Store(wasmtime.Engine(config))
    wasm = wasmtime.Module(store.engine, '(module (func (export "f") (result i32) i32.const 42))')
    assert wasmtime.Instance(store, wasm, []).exports(store)["f"](store) == 42
for name in ("croniter", "psutil", "serial_asyncio_fast", "uvloop", "watchfiles", "gmqtt", "rich.console", "tzdata"):
    importlib.import_module(name)
from zoneinfo import ZoneInfo  # noqa: E402

ZoneInfo("Asia/Shanghai")
print(f"imported: {len(names)} modules of fluxedge, lupa, wasmtime, and the rest")
