//! Requests that wait for authorize rules at the same time are asked together: starting an instance
//! costs more than a question.

use crate::model::{Millis, OrganizationId};
use crate::rules::Authorized;
use crate::rules::chain::Chain;
use crate::rules::hooks::AuthorizeItem;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Questions of one batch, so that a rule with an interpreter, which takes 0.1 ms for each, has its
/// answers long before the deadline.
const TOGETHER_MAX: usize = 32;
/// Requests that are looked through for such that can be asked together.
const AHEAD_MAX: usize = 256;

/// Who waits for the answers to so many questions.
pub(super) type Replies = Vec<(usize, oneshot::Sender<Vec<Authorized>>)>;

/// Requests of one organization that the same rules judge.
pub(super) struct Request {
    pub(super) chain: Arc<Chain>,
    pub(super) now: Millis,
    pub(super) items: Vec<AuthorizeItem>,
    pub(super) replies: Replies,
}

/// What was asked and not begun, the oldest first.
pub(super) struct Waiting {
    queue: mpsc::Receiver<Request>,
    ahead: VecDeque<Request>,
}

impl Waiting {
    pub(super) fn new(queue: mpsc::Receiver<Request>) -> Self {
        Self { queue, ahead: VecDeque::new() }
    }

    /// Waits for a request; those that wait already and are like it come with it. `None`: there will be
    /// no more.
    pub(super) fn next(&mut self) -> Option<Request> {
        if self.ahead.is_empty() {
            self.ahead.push_back(self.queue.blocking_recv()?);
        }
        while self.ahead.len() < AHEAD_MAX
            && let Ok(request) = self.queue.try_recv()
        {
            self.ahead.push_back(request);
        }
        let mut first = self.ahead.pop_front()?;
        let mut at = 0;
        while let Some(other) = self.ahead.get(at) {
            if first.takes(other)
                && let Some(other) = self.ahead.remove(at)
            {
                first.join(other);
            } else {
                at += 1;
            }
        }
        Some(first)
    }
}

impl Request {
    fn org(&self) -> Option<OrganizationId> {
        self.items.first().map(|item| item.org)
    }

    fn takes(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chain, &other.chain)
            && self.org() == other.org()
            && self.items.len() + other.items.len() <= TOGETHER_MAX
    }

    fn join(&mut self, other: Self) {
        self.now = self.now.max(other.now);
        self.items.extend(other.items);
        self.replies.extend(other.replies);
    }

    /// Gives everybody the answers to their questions.
    pub(super) fn answer(replies: Replies, answers: Vec<Authorized>) {
        let mut answers = answers.into_iter();
        for (count, reply) in replies {
            // Nobody listens any more if the caller was cancelled.
            drop(reply.send(answers.by_ref().take(count).collect()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{PrincipalKind, PrincipalView};

    fn request(chain: &Arc<Chain>, org: i32, action: &str) -> Request {
        let principal = PrincipalView {
            kind: PrincipalKind::User,
            id: String::new(),
            org: String::new(),
            roles: Vec::new(),
            permissions: Vec::new(),
        };
        let item = AuthorizeItem {
            principal,
            action: action.to_owned(),
            org: OrganizationId(org),
            resource: None,
            required: Vec::new(),
            is_allowed: true,
        };
        Request {
            chain: Arc::clone(chain),
            now: Millis(1),
            items: vec![item],
            replies: vec![(1, oneshot::channel().0)],
        }
    }

    fn actions(request: Option<Request>) -> Vec<String> {
        let items = request.map(|request| request.items).unwrap_or_default();
        items.into_iter().map(|item| item.action).collect()
    }

    #[test]
    fn what_waits_of_one_organization_under_one_set_of_rules_is_asked_together() {
        let (jobs, queue) = mpsc::channel(8);
        let (old, new) = (Arc::new(Chain::default()), Arc::new(Chain::default()));
        let asked =
            [(&old, 1, "a"), (&old, 2, "b"), (&old, 1, "c"), (&new, 1, "d"), (&old, 2, "e")];
        for (chain, org, action) in asked {
            jobs.try_send(request(chain, org, action)).ok();
        }
        drop(jobs);
        let mut waiting = Waiting::new(queue);
        assert_eq!(actions(waiting.next()), ["a", "c"]);
        assert_eq!(actions(waiting.next()), ["b", "e"]);
        assert_eq!(actions(waiting.next()), ["d"]);
        assert!(waiting.next().is_none());
    }

    #[test]
    fn a_batch_is_bounded_and_everybody_gets_their_own_answers() {
        let (jobs, queue) = mpsc::channel(64);
        let chain = Arc::new(Chain::default());
        let count = TOGETHER_MAX + 1;
        for n in 0..count {
            jobs.try_send(request(&chain, 1, &n.to_string())).ok();
        }
        let mut waiting = Waiting::new(queue);
        assert_eq!(actions(waiting.next()).len(), TOGETHER_MAX);
        assert_eq!(actions(waiting.next()), [(count - 1).to_string()]);
        let answer = |is_allowed| Authorized { is_allowed, denied: None, decisions: Vec::new() };
        let (one, mut first) = oneshot::channel();
        let (two, mut second) = oneshot::channel();
        let answers = [true, false, false].map(answer).to_vec();
        Request::answer(vec![(1, one), (2, two)], answers.clone());
        assert_eq!(first.try_recv().as_deref(), Ok(&answers[..1]));
        assert_eq!(second.try_recv().as_deref(), Ok(&answers[1..]));
    }
}
