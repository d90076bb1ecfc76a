//! Records whose slot is on its way from one node of a cluster to another.

use super::super::scripts::{FINISH, LOAD};
use super::*;
use redis::Value;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_finished_or_loaded_while_its_slot_moves_but_once_it_stays() {
    let start = || Cluster::start(&ServerOptions::default());
    let cluster = tokio::task::spawn_blocking(start).await.unwrap().expect("the cluster forms");
    let redis = Redis::open(&RedisOptions::cluster(cluster.urls())).await.expect("it answers");
    let (base, id) = ("bugler:{s003}:r:", "prepared-commit!");
    let from = cluster.primary_of(base).expect("somebody has the slot");
    let (source, target) = (&cluster.nodes()[from], &cluster.nodes()[(from + 1) % 3]);
    // Two empty lists, packed: no locks and nothing to write.
    let prepared = format!("{base}t:{id}");
    source.ask_bytes(&[b"SET", prepared.as_bytes(), &[0x92, 0x90, 0x90]]).expect("it is kept");
    let slot = source.ask(&["CLUSTER", "KEYSLOT", base]).expect("a slot").number().to_string();
    let name = |node: &Server| node.ask(&["CLUSTER", "MYID"]).expect("a name").text();
    let mark = |node: &Server, how: &[&str]| {
        let command = [&["CLUSTER", "SETSLOT", slot.as_str()], how].concat();
        node.ask(&command).expect("the slot is marked");
    };
    mark(target, &["IMPORTING", &name(source)]);
    mark(source, &["MIGRATING", &name(target)]);
    let finish = Call::new(&FINISH).key(base.as_bytes().to_vec()).arg(id).arg(&b"c"[..]);
    let load = Call::new(&LOAD).key(base.as_bytes().to_vec());
    let load = load.arg(&b"S"[..]).arg(&b"h"[..]).arg(&b"field"[..]).arg(&b"value"[..]);
    for call in [&finish, &load] {
        let answers = redis.run_all(vec![call.clone()]).await;
        assert_eq!(answers, [Err(RedisError::Moved)]);
    }
    mark(source, &["STABLE"]);
    mark(target, &["STABLE"]);
    let answers = redis.run_all(vec![finish, load]).await;
    assert_eq!(answers, [Ok(Value::Int(1)), Ok(Value::Int(4))]);
    let row = source.ask(&["HGET", &format!("{base}h"), "field"]).expect("it answers");
    assert_eq!(row.text(), "value");
}
