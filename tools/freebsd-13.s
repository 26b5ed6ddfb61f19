# What FreeBSD 13.2's libc has not and std uses where it is there: bound to nothing, so that the
# binary asks no libc for it and std takes its other way.
        .globl  posix_spawn_file_actions_addchdir_np
        .set    posix_spawn_file_actions_addchdir_np, 0
