//! gRPC as bytes: frames, flags, trailers, over cleartext and TLS, and what is refused.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Answer, MANAGEMENT, NUMBER, POLICY, World, frame, speak};
use crate::support::client::{Ask, Protocol, Raw};
use crate::support::gateway::Home;
use crate::support::{eventually, world};

#[tokio::test]
async fn bytes_of_real_clients_get_the_answers_they_expect() {
    let world = World::new().await;
    let added = world.raw(
        "/zitadel.management.v1.ManagementService/AddCustomNotificationPolicy",
        &[0, 0, 0, 0, 2, 8, 1],
        &[("content-type", "application/grpc+proto"), ("grpc-accept-encoding", "gzip,br")],
    );
    let added = added.await;
    assert_eq!(added.get("content-type"), Some("application/grpc+proto"));
    let details = added.message();
    // details { sequence 1, creation_date …, change_date …, resource_owner "69…" }
    assert_eq!(details[..2], [0x0a, u8::try_from(details.len() - 2).unwrap()]);
    assert_eq!(details[2..4], [0x08, 1]);
    assert!(details.ends_with(NUMBER.as_bytes()), "{details:?}");
    let again = world.call("AddCustomNotificationPolicy", &[]).await;
    assert_eq!(again.code(), 6);
    assert!(again.body.is_empty());
    let message = "Notification Policy already exists (Org-xa08n2)";
    assert_eq!(again.get("grpc-message"), Some(message));
    assert_eq!(again.get("bugler-error"), Some("BGL-1411"));
    let details = again.get("grpc-status-details-bin").expect("details");
    assert!(!details.contains('='), "unpadded: {details}");
}

#[tokio::test]
async fn frames_and_messages_that_are_none_are_refused() {
    let world = World::new().await;
    let path = format!("{MANAGEMENT}UpdateCustomNotificationPolicy");
    let longest = [&[0x12, 0xfc, 0xff, 0x03][..], &[b'x'; 65_532]].concat();
    for (body, code) in [
        (vec![], 3),
        (vec![0, 0, 0, 0], 3),
        (vec![0, 0, 0, 0, 2, 8], 3),
        (vec![0, 0, 0, 0, 2, 8, 1, 0], 3),
        (vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 3),
        (vec![0, 0xff, 0xff, 0xff, 0xff, 8, 1], 3),
        (vec![1, 0, 0, 0, 2, 8, 1], 12),
        (vec![2, 0, 0, 0, 2, 8, 1], 3),
        (frame(&[8]), 3),
        (frame(&[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), 3),
        (frame(&[0x23; 300]), 3),
        (frame(&[0, 1]), 3),
        (frame(&vec![0; 65_537]), 3),
        // Read, and then there is no policy to update.
        (frame(&[]), 5),
        (frame(&[8, 2]), 5),
        (frame(&[0x0a, 1, 1]), 5),
        (frame(&[0x23, 0x2b, 8, 0, 0x2c, 0x24, 8, 1]), 5),
        (frame(&longest), 5),
    ] {
        let answer = world.raw(&path, &body, &[]).await;
        let start = body.get(..12).unwrap_or(&body);
        assert_eq!(answer.code(), code, "{start:02x?} of {}: {answer:?}", body.len());
    }
}

#[tokio::test]
async fn headers_decide_before_the_message() {
    let world = World::new().await;
    let path = format!("{MANAGEMENT}UpdateCustomNotificationPolicy");
    for (name, value, code) in [
        ("authorization", "Bearer no", 16),
        ("authorization", "Basic dTpw", 16),
        ("x-zitadel-orgid", "1", 7),
        ("x-zitadel-orgid", "acme", 7),
        ("content-type", "application/grpc+json", 12),
        ("grpc-timeout", "soon", 3),
        ("grpc-timeout", "99999999H", 5),
        ("grpc-timeout", "99999999999999999999H", 5),
        ("grpc-encoding", "gzip", 5),
        ("x-zitadel-orgid", NUMBER, 5),
    ] {
        let answer = world.raw(&path, &frame(&[8, 1]), &[(name, value)]).await;
        assert_eq!(answer.code(), code, "{name}: {value}: {answer:?}");
    }
    let member = World { token: world.home.user_token(101, 102).await, ..world };
    assert_eq!(member.raw(&path, b"no frame", &[]).await.code(), 7);
}

#[tokio::test]
async fn calls_that_are_not_there_are_unimplemented_under_status_200() {
    let world = World::new().await;
    for path in [
        "/zitadel.management.v1.ManagementService/GetIAM",
        "/zitadel.management.v1.ManagementService/",
        "/zitadel.user.v2.UserService/GetUserByID",
        "/grpc.health.v1.Health/Check",
        "/management/v1/nothing",
        "/",
    ] {
        for media in ["application/grpc", "application/grpc+proto", "application/grpc+json"] {
            let answer = world.raw(path, &frame(&[]), &[("content-type", media)]).await;
            assert_eq!(answer.code(), 12, "{path} {media}");
        }
        let web = [("content-type", "application/grpc-web+proto")];
        let answer = world.raw(path, &frame(&[]), &web).await;
        assert_eq!((answer.status, answer.body[0]), (200, 0x80), "{path}");
    }
    // Paths of another dialect stay its own.
    let grpc = [("content-type", "application/grpc")];
    assert_eq!(world.raw("/bugler/v1/notifications", b"", &grpc).await.status, 415);
    assert_eq!(world.raw("/v2.0/tool/x", b"", &grpc).await.status, 404);
}

#[tokio::test]
async fn the_path_of_rest_takes_grpc_too() {
    let world = World::new().await;
    let added = world.raw(POLICY, &frame(&[8, 1]), &[]).await;
    assert!(added.message().ends_with(NUMBER.as_bytes()));
    assert_eq!(world.raw(POLICY, &frame(&[8, 1]), &[]).await.code(), 6);
}

#[tokio::test]
async fn grpc_web_has_its_trailers_in_the_body() {
    let world = World::new().await;
    for protocol in Protocol::ALL {
        let ask = |name: &str, body: Vec<u8>| {
            let ask = Ask::post(format!("{MANAGEMENT}{name}")).bearer(&world.token);
            let mut ask = ask.header("content-type", "application/grpc-web+proto");
            ask.body = body.into();
            ask.header("x-grpc-web", "1")
        };
        let reply = ask("Healthz", frame(&[])).send(protocol, world.gateway.api).await;
        assert_eq!(reply.header("content-type"), Some("application/grpc-web+proto"));
        assert_eq!(&reply.body[..], b"\0\0\0\0\0\x80\0\0\0\x10grpc-status: 0\r\n");
        let refused = ask("ResetNotificationPolicyToDefault", frame(&[]));
        let reply = refused.send(protocol, world.gateway.api).await;
        assert_eq!((reply.status, reply.body[0]), (200, 0x80));
        let trailers = reply.text();
        assert!(trailers.contains("grpc-status: 5\r\n"), "{trailers}");
        assert!(trailers.contains("(ORG-x029n1s)\r\n"), "{trailers}");
    }
}

#[tokio::test]
async fn an_overloaded_gateway_says_unavailable_in_the_calls_own_form() {
    let home = Home::new(world::directory()).set("server.max_inflight=1");
    let gateway = home.start().await;
    let world = World { token: home.token(101).await, home, gateway };
    // A request whose body never comes holds the only place. One that comes while a call has it is refused.
    let head = format!(
        "POST {POLICY} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 9\r\n\r\n",
        world.token
    );
    let mut holders = Vec::new();
    let answer = eventually("the place is taken", async || {
        let mut holder = Raw::connect(world.gateway.api).await;
        assert!(holder.write(head.as_bytes()).await);
        holders.push(holder);
        let answer = world.call("Healthz", &[]).await;
        (answer.code() != 0).then_some(answer)
    })
    .await;
    assert_eq!(answer.code(), 14);
    assert!(answer.get("retry-after").is_some(), "{answer:?}");
    let web = [("content-type", "application/grpc-web")];
    let answer = world.raw(&format!("{MANAGEMENT}Healthz"), &frame(&[]), &web).await;
    assert_eq!((answer.status, answer.body[0]), (200, 0x80));
}

#[tokio::test]
async fn an_organization_over_its_limit_is_told_in_the_calls_own_form() {
    let home = Home::new(world::directory()).set("limits.per_org=1/h");
    let gateway = home.start().await;
    let world = World { token: home.token(101).await, home, gateway };
    assert_eq!(world.call("GetNotificationPolicy", &[]).await.code(), 0);
    let answer = world.call("GetNotificationPolicy", &[]).await;
    assert_eq!(answer.code(), 8);
    assert!(answer.get("retry-after").is_some(), "{answer:?}");
}

#[tokio::test]
async fn grpc_is_served_over_tls_on_the_same_port() {
    let certified = rcgen::generate_simple_self_signed([String::from("localhost")]).unwrap();
    let home = Home::new(world::directory());
    let (cert, key) = (home.path().join("cert.pem"), home.path().join("key.pem"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let home = home.with(&format!(
        "[server.tls]\ncert_file = \"{}\"\nkey_file = \"{}\"\n",
        cert.display(),
        key.display()
    ));
    let gateway = home.start().await;
    let token = home.token(101).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(gateway.api).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let uri = format!("https://localhost:{}{MANAGEMENT}GetMyOrg", gateway.api.port());
    let mut headers = http::HeaderMap::new();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    let answer: Answer = speak(stream, &uri, headers, frame(&[]).into()).await;
    let message = answer.message();
    assert!(message.windows(9).any(|part| part == b"Acme Corp"), "{message:?}");
}
