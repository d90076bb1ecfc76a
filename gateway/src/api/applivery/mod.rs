//! Applivery: organization notification subscriptions. So far only its error envelope is served.

pub(crate) mod render;
