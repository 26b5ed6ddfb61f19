# What FreeBSD 13.2's libc has not and std uses where it is there: bound to nothing, so that the
# binary asks no libc for it and std takes its other way.
        .globl  posix_spawn_file_actions_addchdir_np
        .set    posix_spawn_file_actions_addchdir_np, 0

# That this is a program of FreeBSD's, and of which release at least: the ABI tag of crtbrand.S. The
# start files have one too, but in a group, which the linker drops with what nobody refers to. A
# kernel that finds none goes by the interpreter's name, and does as it did before FreeBSD 7 where
# that differs (p_osrel in sys/kern/imgact_elf.c).
        .section .note.tag, "a", @note
        .p2align 2
        .long   8                       # of the vendor's name
        .long   4                       # of what follows it
        .long   1                       # NT_FREEBSD_ABI_TAG
        .asciz  "FreeBSD"
        .long   1302001                 # __FreeBSD_version of 13.2
        .section .note.GNU-stack, "", @progbits
