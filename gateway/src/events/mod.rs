//! What happens to sandboxes, as it happens: one event for each, told to whoever wants it.
//!
//! [`Events`] is the bus. Whoever sees something happen [tells](Events::emit) it; whoever wants to
//! know [subscribes](Events::subscribe) and reads at their own pace, from a ring of their own. One
//! that is too slow loses the oldest of its own events, which is counted, and keeps nobody waiting:
//! neither what happens nor the others.
//!
//! The bus has the order of what happened: all subscribers see it, and of one sandbox it is the
//! order in which it came about. What is told while nobody subscribes is counted and gone.

mod agents;
mod bus;
mod cost;
#[cfg(test)]
mod documented;
pub(crate) mod e2b;
mod event;
pub mod export;
mod kind;
pub mod otlp;
mod scrub;
pub mod store;
pub mod trace;
mod types;
pub mod webhooks;

pub use bus::{Batch, Events, Next, Room, Subscription};
pub use cost::{Cost, Price, Tariff};
pub use event::{Event, EventId, InvalidEventId, InvalidTraceId, New, TraceId};
pub use kind::{Kind, Period, Resources, What};
pub use scrub::{Error as ScrubError, Rules as ScrubRules, Scrub};
pub use types::{InvalidTypes, Types};
