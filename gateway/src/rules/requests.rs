//! Requests that wait for authorize rules at the same time are asked together: starting an instance
//! costs more than a question.

use crate::model::{Millis, OrganizationId};
use crate::rules::Authorized;
use crate::rules::chain::Chain;
use crate::rules::hooks::AuthorizeItem;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Questions of one batch, so that a rule with an interpreter, which takes 0.1 ms for each, has its
/// answers long before the deadline.
const TOGETHER_MAX: usize = 32;

/// Who waits for the answers to so many questions.
pub(super) type Replies<A> = Vec<(usize, oneshot::Sender<Vec<A>>)>;

/// Requests of one organization that the same rules judge.
pub(super) struct Request {
    pub(super) chain: Arc<Chain>,
    pub(super) now: Millis,
    pub(super) items: Vec<AuthorizeItem>,
    pub(super) replies: Replies<Authorized>,
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

    /// Takes `other` along, or gives it back.
    pub(super) fn join(&mut self, other: Self) -> Option<Self> {
        if !self.takes(&other) {
            return Some(other);
        }
        self.now = self.now.max(other.now);
        self.items.extend(other.items);
        self.replies.extend(other.replies);
        None
    }
}

/// Gives everybody the answers to their questions.
pub(super) fn answer<A>(replies: Replies<A>, answers: Vec<A>) {
    let mut answers = answers.into_iter();
    for (count, reply) in replies {
        // Nobody listens any more if the caller was cancelled.
        drop(reply.send(answers.by_ref().take(count).collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::queue::Queue;
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

    fn actions(queue: &Queue<Request>) -> Vec<String> {
        let request = queue.take(Request::join);
        let items = request.map(|request| request.items).unwrap_or_default();
        items.into_iter().map(|item| item.action).collect()
    }

    #[tokio::test]
    async fn what_waits_of_one_organization_under_one_set_of_rules_is_asked_together() {
        let queue = Queue::new(8);
        let (old, new) = (Arc::new(Chain::default()), Arc::new(Chain::default()));
        let asked =
            [(&old, 1, "a"), (&old, 2, "b"), (&old, 1, "c"), (&new, 1, "d"), (&old, 2, "e")];
        for (chain, org, action) in asked {
            queue.put(request(chain, org, action)).await;
        }
        queue.end();
        assert_eq!(actions(&queue), ["a", "c"]);
        assert_eq!(actions(&queue), ["b", "e"]);
        assert_eq!(actions(&queue), ["d"]);
        assert!(queue.take(Request::join).is_none());
    }

    #[tokio::test]
    async fn a_batch_is_bounded_and_everybody_gets_their_own_answers() {
        let queue = Queue::new(64);
        let chain = Arc::new(Chain::default());
        let count = TOGETHER_MAX + 1;
        for n in 0..count {
            queue.put(request(&chain, 1, &n.to_string())).await;
        }
        assert_eq!(actions(&queue).len(), TOGETHER_MAX);
        assert_eq!(actions(&queue), [(count - 1).to_string()]);
        let authorized =
            |is_allowed| Authorized { is_allowed, denied: None, decisions: Vec::new() };
        let (one, mut first) = oneshot::channel();
        let (two, mut second) = oneshot::channel();
        let answers = [true, false, false].map(authorized).to_vec();
        answer(vec![(1, one), (2, two)], answers.clone());
        assert_eq!(first.try_recv().as_deref(), Ok(&answers[..1]));
        assert_eq!(second.try_recv().as_deref(), Ok(&answers[1..]));
    }
}
