"""An emulator of PTX: what NVIDIA's compilers make of the kernels, run on the CPU, with no GPU and no driver.

`compilers` turns CUDA into PTX, `parser` reads it, `calls` inlines device functions, `flow` finds where the lanes of a
warp meet again, `instructions` is the table of instructions, `translator` turns a kernel into numbers for the machine
(`machine.hpp`), `runtime` runs it, and `device` is a `gpuvox.device.Device` on top. `counts` is what kernels cost, and
`faults` are kernels that are wrong on purpose.
"""
