//! An entry claimed again: what was announced comes to its end, whatever the records say by then.

use super::*;
use crate::model::{Device, DeviceId, Platform, Secret};
use crate::store::Change;
use crate::work::encode_event;
use std::collections::BTreeMap;

const USERS: i64 = 300;
/// One page, and what is left for a chunk.
const PAGE: i64 = 256;

impl World {
    async fn devices(&self, user: i64) -> Vec<Device> {
        let page = self.store.recipients(ORG, &users(&[user]), None, 1).await.expect("readable");
        page.recipients.into_iter().flat_map(|found| found.devices).collect()
    }

    /// A user who comes before all others in every list.
    async fn join(&self) -> DeviceId {
        let user = self.store.user(UserRef::Id(UserId(1))).await.expect("readable").expect("there");
        let mut first = user.clone();
        (first.id, first.uuid) = (UserId(0), Uuid::now_v7());
        first.email = String::from("user0@example.com");
        let device = DeviceId(Uuid::now_v7());
        let phone = Device {
            id: device,
            user: first.id,
            platform: Platform::Apns,
            app: String::from("main"),
            token: Secret::new("ff".repeat(32)),
            registered_at: START,
        };
        let changes = vec![Change::PutUser(first), Change::PutDevice(phone)];
        self.store.apply(changes).await.expect("applied");
        device
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_claimed_again_sends_what_was_planned_and_asks_no_rule() {
    let mut world = World::new(300, Arc::new(NoRules), |_| None).await;
    world.dispatcher.take().expect("running").drain(Duration::ZERO).await;
    world.queue = 4_096;
    world.start(Arc::new(NoRules));
    let id = world.accept(Audience::Organization, "x").await;
    world.until("a try", Duration::ZERO, async |w| !w.sent().is_empty()).await;
    world.until("a page", Duration::ZERO, async |w| !w.events(id).await.is_empty()).await;
    world.crash().await;

    let newcomer = world.join().await;
    let [removed] = <[_; 1]>::try_from(world.devices(2).await).expect("one device");
    world.store.apply(vec![Change::RemoveDevice(removed.id)]).await.expect("applied");
    let last = world.devices(PAGE).await[0].id;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let rules = Told(Box::new(move |item: &RouteItem| {
        log.lock().push(item.recipient.id.clone());
        match item.recipient.id.as_str() {
            "4" => Verdict::HoldUntil(START.plus(86_400_000)),
            _ => Verdict::Deliver(Plan::all_targets(item.recipient.targets.len())),
        }
    }));
    world.push = scripted(ProviderName::Apns, |_| Some(Outcome::Delivered));
    world.start(Arc::new(rules));
    world
        .until("all", Duration::from_millis(50), async |w| {
            (0..2).all(|shard| w.journal.backlog(ShardId(shard)).pending == 0)
        })
        .await;

    let mut tries: BTreeMap<String, u32> = BTreeMap::new();
    world.sent().into_iter().for_each(|(key, _)| *tries.entry(key).or_default() += 1);
    assert!(tries.values().all(|count| *count == 1), "{tries:?}");
    assert_eq!(tries.len(), 299);
    assert!(tries.contains_key(&format!("apns:{last}")), "the last of the page is not lost");
    assert!(!tries.contains_key(&format!("apns:{newcomer}")), "who came later was not meant");
    assert_eq!(world.books().finals, [299, 1, 0, 0, 0, 0], "the removed one has its end, too");
    let first_page = |id: &String| id.parse::<i64>().is_ok_and(|id| id <= PAGE);
    assert!(!asked.lock().iter().any(first_page), "{:?}", asked.lock());
    let announced = world.events(id).await.into_iter().filter_map(|event| match event {
        TimelineEvent::Expanded { deliveries, .. } => Some(i64::from(deliveries)),
        _ => None,
    });
    assert_eq!(announced.sum::<i64>(), USERS);
}

#[test]
fn a_plan_costs_few_bytes() {
    let target = |number: i64| TargetRef::Device {
        provider: ProviderName::Apns,
        device: DeviceId(Uuid::from_u128(7)),
        user: UserId(number),
    };
    let bytes = |count: i64| {
        let to = vec![(crate::work::Overrides::default(), (0..count).map(target).collect())];
        let part = crate::model::Part::Root;
        encode_event(&TimelineEvent::Planned { part, after: None, to }).len()
    };
    assert!(bytes(1) <= 32, "{}", bytes(1));
    assert!(bytes(PAGE) <= 22 * 256, "{}", bytes(PAGE));
}
