//! Whom a freeze stops next, and whom a thaw lets go on, by the process table.
