//! `bugler client create`: the first client, made while nothing runs.

use serde_json::Value;

use super::{access, actions, home, statuses};
use crate::support::client::Ask;
use crate::support::gateway::{Failure, Home, run};

async fn create(home: &Home, arguments: &[&str]) -> Failure {
    let mut command = home.command();
    command.args(["client", "create"]).args(arguments);
    command.args(["--set", &format!("store.dir={}", home.store().display())]);
    command.args(["--set", "store.segment=1MiB"]);
    run(command).await
}

async fn token(gateway: &crate::support::gateway::Gateway, made: &Failure) -> Value {
    let made: Value = serde_json::from_str(&made.stdout).expect("JSON");
    let (id, secret) = (made["id"].as_str().expect("id"), made["secret"].as_str().expect("secret"));
    let query = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
    let reply = gateway.ask(&Ask::post(format!("/oauth2/token?{query}"))).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[tokio::test]
async fn the_first_client_is_made_on_a_stopped_data_directory() {
    let home = home();
    let gateway = home.start().await;
    let busy = create(&home, &["--org", "101"]).await;
    assert_eq!(busy.code, Some(1), "{}", busy.stdout);
    assert!(busy.stderr.contains("in use by process"), "{}", busy.stderr);
    gateway.kill();
    let made = create(&home, &["--org", "101", "--name", "shop"]).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let limited = create(&home, &["--org", "101", "--permission", "notification.send"]).await;
    assert_eq!(limited.code, Some(0), "{}", limited.stderr);
    let gateway = home.start().await;
    let tokens = token(&gateway, &made).await;
    assert_eq!(statuses(&gateway, access(&tokens)).await, [204, 201, 201, 200]);
    let tokens = token(&gateway, &limited).await;
    assert_eq!(statuses(&gateway, access(&tokens)).await, [204, 201, 201, 403]);
    let admin = home.token(101).await;
    let actions = actions(&gateway, &admin).await;
    assert_eq!(
        actions.get(..2),
        Some(&[String::from("client.create"), "client.create".into()][..])
    );
}

#[tokio::test]
async fn what_cannot_be_made_is_said() {
    let home = home();
    home.start().await.kill();
    let nowhere = create(&home, &["--org", "999"]).await;
    assert_eq!(nowhere.code, Some(1));
    assert!(nowhere.stderr.contains("organization"), "{}", nowhere.stderr);
    let unknown = create(&home, &["--org", "101", "--permission", "root"]).await;
    assert_eq!(unknown.code, Some(3));
    assert!(unknown.stderr.contains("user.view"), "{}", unknown.stderr);
}
