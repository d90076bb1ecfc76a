//! Reads of one shard that are asked for at the same time go to Redis as one question.
//!
//! While one question of a shard is under way, what is asked meanwhile waits for the next: nothing is
//! answered from before it was asked. Who asks the same is answered by the same read.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use redis::Value;
use tokio::sync::oneshot;

use super::wire::{Ask, Wire, split};
use crate::model::ShardId;

/// Reads of one caller that go with those of others; a larger question goes alone.
const SHARED_MAX: usize = 256;
/// Callers before it whose asks are compared with those of a new one.
const JOINED_MAX: usize = 4;
/// Reads after which a question takes no more callers.
const QUESTION_MAX: usize = 1_024;

/// What waits to be read, by shard.
#[derive(Clone, Debug)]
pub(super) struct Gather(Arc<[Mutex<Turn>]>);

#[derive(Debug, Default)]
struct Turn {
    /// Somebody asks, and will go on as long as anything waits.
    is_led: bool,
    waiting: VecDeque<Waiting>,
}

/// Callers who ask the same.
#[derive(Debug)]
struct Waiting {
    asks: Vec<Ask>,
    answers: Vec<Answer>,
}

/// `None` tells to ask alone.
type Answer = oneshot::Sender<Option<Vec<Value>>>;

/// Leads the questions of a shard. If it is gone before its time, whoever waits asks alone.
struct Lead<'a> {
    turn: &'a Mutex<Turn>,
    is_over: bool,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            *self.turn.lock() = Turn::default();
        }
    }
}

impl Turn {
    /// Callers who come one after the other mostly want the same organization.
    fn join(&mut self, asks: &[Ask], answer: Answer) {
        let last = self.waiting.iter_mut().rev().take(JOINED_MAX);
        for waiting in last {
            if waiting.asks == asks {
                waiting.answers.push(answer);
                return;
            }
        }
        self.waiting.push_back(Waiting { asks: asks.to_vec(), answers: vec![answer] });
    }

    /// Those who go into the next question.
    fn take(&mut self) -> Vec<Waiting> {
        let (mut taken, mut count) = (Vec::new(), 0);
        while count < QUESTION_MAX
            && let Some(next) = self.waiting.pop_front()
        {
            count += next.asks.len();
            taken.push(next);
        }
        taken
    }
}

impl Gather {
    pub(super) fn new(shards: u16) -> Self {
        Self((0..shards).map(|_| Mutex::default()).collect())
    }
}

impl Wire {
    /// Reads with others; `None` if `asks` are to be asked alone.
    pub(super) async fn read_shared(&self, asks: &[Ask]) -> Option<Vec<Value>> {
        let shard = asks.first()?.shard(self.shards);
        if asks.len() > SHARED_MAX || asks.iter().any(|ask| ask.shard(self.shards) != shard) {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        let is_led = {
            let mut turn = self.gather.0.get(usize::from(shard.0))?.lock();
            turn.join(asks, answer);
            std::mem::replace(&mut turn.is_led, true)
        };
        if !is_led {
            tokio::spawn(self.clone().lead(shard));
        }
        answered.await.ok().flatten()
    }

    /// Asks until nobody waits any more.
    async fn lead(self, shard: ShardId) {
        let Some(turn) = self.gather.0.get(usize::from(shard.0)) else { return };
        let mut lead = Lead { turn, is_over: false };
        loop {
            // Whoever is ready to ask goes along.
            tokio::task::yield_now().await;
            let taken = {
                let mut turn = turn.lock();
                let taken = turn.take();
                if taken.is_empty() {
                    // From here on another may lead.
                    (turn.is_led, lead.is_over) = (false, true);
                    return;
                }
                taken
            };
            self.ask_for(shard, taken).await;
        }
    }

    async fn ask_for(&self, shard: ShardId, taken: Vec<Waiting>) {
        let (mut asks, mut places) = (Vec::<Ask>::new(), HashMap::<Ask, usize>::new());
        let (mut uses, mut callers) = (Vec::<usize>::new(), Vec::with_capacity(taken.len()));
        for Waiting { asks: asked, answers } in taken {
            let mut own = Vec::with_capacity(asked.len());
            for ask in asked {
                let place = *places.entry(ask).or_insert_with_key(|ask| {
                    asks.push(ask.clone());
                    uses.push(0);
                    asks.len() - 1
                });
                uses.get_mut(place).into_iter().for_each(|uses| *uses += answers.len());
                own.push(place);
            }
            callers.push((own, answers));
        }
        let reply = self.redis.run_all(vec![self.read_call(shard, asks.iter())]).await.pop();
        // What is locked or fails is seen to by each: then they ask alone.
        let Some(Ok((held, mut values))) = reply.and_then(Result::ok).map(split) else { return };
        if !held.is_empty() {
            return;
        }
        for (own, answers) in callers {
            for answer in answers {
                let found = own.iter().map(|place| {
                    let left = uses.get_mut(*place).map_or(0, |uses| {
                        *uses -= 1;
                        *uses
                    });
                    let value = values.get_mut(*place);
                    value.map_or(Value::Nil, |value| match left {
                        0 => std::mem::replace(value, Value::Nil),
                        _ => value.clone(),
                    })
                });
                answer.send(Some(found.collect())).ok();
            }
        }
    }
}
