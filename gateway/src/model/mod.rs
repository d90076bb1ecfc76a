//! The domain's nouns: identities, organizations, users, devices, subscriptions, notifications, outcomes.
//!
//! Nothing here knows HTTP, Redis, a provider's JSON or the clock.

mod accounts;
mod directory;
mod ids;
mod inbox;
mod notification;
mod outcome;
mod word;

pub use accounts::*;
pub use directory::*;
pub use ids::*;
pub use inbox::*;
pub use notification::*;
pub use outcome::*;
pub use word::Word;
