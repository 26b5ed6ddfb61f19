//! The promises, by what they are about.

pub(crate) mod adoption;
mod ending;
mod freezing;
mod layers;
mod limits;
mod living;
mod usage;

use std::pin::Pin;

use super::world::World;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: for<'a> fn(&'a World) -> Pin<Box<dyn Future<Output = ()> + 'a>>,
}

/// Functions by their own names.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::suite::cases::Case {
            name: stringify!($name),
            run: |world| Box::pin($name(world)),
        }),*]
    };
}
pub(crate) use cases;

pub(crate) fn all() -> Vec<Case> {
    [
        living::cases(),
        limits::cases(),
        usage::cases(),
        freezing::cases(),
        ending::cases(),
        layers::cases(),
        adoption::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
