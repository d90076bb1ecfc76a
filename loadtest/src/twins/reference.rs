//! Finds the notification a payload belongs to, wherever the sender put its id.

use serde_json::Value;

/// Paths to look at, most specific first.
const POINTERS: [&str; 8] = [
    "/bugler/notificationId",
    "/bugler/notification",
    "/bugler/id",
    "/bugler",
    "/notificationId",
    "/data/notificationId",
    "/data/bugler",
    "/metadata/event_payload/notificationId",
];

/// The notification id in `payload`, if it holds one.
pub(crate) fn notification(payload: &Value) -> Option<String> {
    let mut found = POINTERS.iter().filter_map(|pointer| payload.pointer(pointer)?.as_str());
    found.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_id_is_found_in_each_place_a_sender_may_put_it() {
        for payload in [
            json!({"aps": {}, "bugler": "id-1"}),
            json!({"aps": {}, "bugler": {"notificationId": "id-1"}}),
            json!({"data": {"notificationId": "id-1"}}),
            json!({"type": "x", "notificationId": "id-1"}),
            json!({"text": "x", "metadata": {"event_payload": {"notificationId": "id-1"}}}),
        ] {
            assert_eq!(notification(&payload).as_deref(), Some("id-1"), "{payload}");
        }
        assert_eq!(notification(&json!({"bugler": 7, "data": []})), None);
    }
}
