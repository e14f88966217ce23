"""The optimizers: each is declared beside its code, as `kind` says; what torch or bitsandbytes keeps is theirs.

A recipe says `optimizer` and, where it wants other than the published defaults, the fields that optimizer reads.

    optimizer            from            state of a matrix                        bytes per parameter
    adamw                torch, fused    two moments in fp32                      8
    adamw-8bit           bitsandbytes    two moments in 8 bits, blocks of 256     2.03
    adamw-bf16-moments   here            two moments in bf16, fp32 weights        4
    lion                 here            one moment in fp32                       4
    lion-8bit            bitsandbytes    one moment in 8 bits, blocks of 256      1.02
    lion-bf16-moments    here            one moment in bf16, fp32 weights         2
    cautious-lion        here            one moment in fp32                       4
    adafactor            torch           one number a row and a column            4/rows + 4/columns
    muon                 torch           one moment in fp32; AdamW for the rest   4; 8
    sophia-g             here            one moment and the curvature in fp32     8
    ellis-adam           here            two moments in fp32                      8

`memory` gives the exact figure for a model, where small and one-dimensional tensors count too.

Invariants: each is one `torch.optim.Optimizer` whose groups are those of `LanguageModel.parameter_groups`, or parts of
them; all that changes from step to step is tensors in its `state`, so a checkpoint that restores those tensors
continues to the same bits; a step draws no random number.
"""
