use serde_json::json;

use super::*;
use crate::gateway::Selection;

fn read(said: &Value) -> Result<Order, Refused> {
    PythonFormat::new("socketio").read("socketio", said.to_string().as_bytes())
}

fn args(said: &Value) -> Vec<Value> {
    let Action::Emit(message) = read(said).unwrap().action else {
        panic!("{said}")
    };
    let value = |arg: &Json| serde_json::from_str(arg.text()).unwrap();
    message.args.iter().map(value).collect()
}

#[test]
fn arguments_are_those_of_a_python_server() {
    let emit = |data: Value, binary: bool| json!({"method": "emit", "event": "e", "data": data, "binary": binary});
    for (data, expected) in [
        (json!([1, "two"]), vec![json!(1), json!("two")]),
        (json!([[1, 2]]), vec![json!([1, 2])]),
        (json!([null]), vec![]),
        (json!(null), vec![]),
        (json!([null, 1]), vec![json!(null), json!(1)]),
        (json!({"a": 1}), vec![json!({"a": 1})]),
    ] {
        assert_eq!(args(&emit(data.clone(), false)), expected, "{data}");
    }
    let placeholder = |number: u32| json!({"_placeholder": true, "num": number});
    let data = json!([[{"x": placeholder(1)}, placeholder(0)], "AAE=", "/w=="]);
    let expected = [
        json!({"x": {"$base64": "/w=="}}),
        json!({"$base64": "AAE="}),
    ];
    assert_eq!(args(&emit(data, true)), expected);
    for damaged in [
        json!([[placeholder(1)], "AAE="]),
        json!([[placeholder(0)], "?"]),
        json!([[placeholder(0)], 7]),
        json!([7, "AAE="]),
        json!([]),
        json!("x"),
    ] {
        let said = emit(damaged, true);
        assert_eq!(read(&said), Err(Refused::Unreadable), "{said}");
    }
}

#[test]
fn each_method_is_read() {
    let selection = |rooms: &[&str], except: &[&str]| Selection {
        rooms: rooms.iter().map(|it| (*it).into()).collect(),
        except: except.iter().map(|it| (*it).into()).collect(),
    };
    let rooms = vec!["r".to_owned()];
    for (said, expected, action) in [
        (
            json!({"method": "emit", "event": "e", "data": null, "room": ["a", "b"], "skip_sid": "c", "namespace": "chat"}),
            selection(&["a", "b"], &["c"]),
            Action::Emit(Message::new("/chat", "e")),
        ),
        (
            json!({"method": "disconnect", "sid": "s", "namespace": "/chat"}),
            selection(&["s"], &[]),
            Action::End { transports: false },
        ),
        (
            json!({"method": "enter_room", "sid": "s", "room": "r", "namespace": "/chat"}),
            selection(&["s"], &[]),
            Action::Join(rooms.clone()),
        ),
        (
            json!({"method": "leave_room", "sid": "s", "room": "r", "namespace": "/chat"}),
            selection(&["s"], &[]),
            Action::Leave(rooms.clone()),
        ),
        (
            json!({"method": "close_room", "room": "r", "namespace": "/chat"}),
            selection(&["r"], &[]),
            Action::Leave(rooms.clone()),
        ),
    ] {
        let order = read(&said).unwrap();
        assert_eq!(order.namespace, "/chat");
        assert_eq!(
            (order.selection, order.action),
            (expected, action),
            "{said}"
        );
    }
    for (said, refused) in [
        (json!({"method": "callback"}), Refused::Unsupported),
        (
            json!({"method": "emit", "event": "e", "data": [], "callback": ["r", "/", 1]}),
            Refused::Unsupported,
        ),
        (json!({"method": "emit", "data": []}), Refused::Unreadable),
        (json!({"method": "disconnect"}), Refused::Unreadable),
        (json!([1]), Refused::Unreadable),
    ] {
        assert_eq!(read(&said), Err(refused), "{said}");
    }
}
