"""Mutants of the Triton kernel of rotations, held by its own tests."""

from mutant import Mutant

MUTANTS = [
    Mutant("kernels/rope.py", old, new, mechanism, ("tests/kernels/test_rope.py",))
    for old, new, mechanism in (
        ("        sin = -sin\n", "        sin = sin\n", "gradients turn backwards"),
        ("first * cos - second * sin, first", "first * cos + second * sin, first", "sense of the kernel's rotation"),
        ("+ row * table_row_stride", "", "the table of each row"),
        ("table.stride(1) if table.shape[1] > 1 else 0", "table.stride(1)", "one row of angles serves all"),
        ("+ head * x_head_stride", "+ head * (2 * half)", "slices of channels"),
        ("position * x_position_stride", "position * heads * (2 * half)", "slices of heads"),
        ("inside = (position < positions) & (head < heads)", "inside = head < heads", "the last positions of a row"),
        ("mask=inside & (channel < 2 * half))\n    else", "mask=inside)\n    else", "the last channels, interleaved"),
        ("ctx.interleaved, not ctx.backward)", "ctx.interleaved, ctx.backward)", "the gradient is the inverse turn"),
    )
]
