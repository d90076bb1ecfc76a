//! A connection for reads that wait: never shared, so that nobody else waits with them.

use super::error::RedisError;
use super::link::Link;
use super::node::Node;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Value};
use std::sync::Arc;
use std::time::Duration;

/// A connection of its own to the node that has one slot, made anew and elsewhere when need be.
#[derive(Debug)]
pub struct Blocking {
    link: Arc<Link>,
    slot: u16,
    /// Taken out while a read waits: a dropped read leaves no connection with a reply to come.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    node: Arc<Node>,
    connection: MultiplexedConnection,
}

impl Blocking {
    pub(super) async fn open(link: Arc<Link>, slot: u16) -> Result<Self, RedisError> {
        let mut blocking = Self { link, slot, open: None };
        blocking.open = Some(blocking.dial().await?);
        Ok(blocking)
    }

    /// Sends `command`, which waits on the server for up to `block`, and awaits its reply.
    ///
    /// What a dropped or timed-out `XREADGROUP` was given stays pending for its consumer.
    ///
    /// # Errors
    /// As for a script. After each the next call connects anew where that is needed.
    pub async fn call(&mut self, command: &Cmd, block: Duration) -> Result<Value, RedisError> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.dial().await?,
        };
        let limit = block + self.link.options.timeout;
        let node = open.node.name.clone();
        let reply =
            match tokio::time::timeout(limit, open.connection.req_packed_command(command)).await {
                Ok(Ok(Value::ServerError(error))) => Err(RedisError::of_reply(&error)),
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) if error.code().is_some() => Err(RedisError::of_dial(&node, &error)),
                Ok(Err(error)) => Err(RedisError::of_request(&node, &error)),
                Err(_) => Err(RedisError::Unknown { node, what: String::from("timed out") }),
            };
        match &reply {
            Err(RedisError::Moved | RedisError::ReadOnly | RedisError::Unknown { .. }) => {
                self.link.refresh().await;
            }
            _ => self.open = Some(open),
        }
        reply
    }

    async fn dial(&self) -> Result<Open, RedisError> {
        let node = self.link.node_of(self.slot)?;
        match node.dial(None).await {
            Ok(connection) => Ok(Open { node, connection }),
            Err(error) => {
                self.link.refresh().await;
                Err(error)
            }
        }
    }
}
