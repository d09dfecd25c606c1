use super::*;
use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

#[test]
fn scalars_are_read_as_yaml_1_1() {
    for (text, expected) in [
        ("on", json!(true)),
        ("Off", json!(false)),
        ("yes", json!(true)),
        ("NO", json!(false)),
        ("oN", json!("oN")),
        ("y", json!("y")),
        ("n", json!("n")),
        ("0640", json!(416)),
        ("0o10", json!("0o10")),
        ("08", json!("08")),
        ("0_7", json!(7)),
        ("0x1F", json!(31)),
        ("-0x1f", json!(-31)),
        ("0x_", json!("0x_")),
        ("0b11", json!(3)),
        ("1_000", json!(1000)),
        ("+5", json!(5)),
        ("-0", json!(0)),
        ("1:30", json!(90)),
        ("+12:30", json!(750)),
        ("5432:5433", json!("5432:5433")),
        ("127.0.0.1:2379", json!("127.0.0.1:2379")),
        ("1e3", json!("1e3")),
        ("1.5e3", json!("1.5e3")),
        ("1.0e+3", json!(1000.0)),
        (".5", json!(0.5)),
        ("-.5", json!("-.5")),
        ("1.", json!(1.0)),
        ("12:30:45.5", json!(45045.5)),
        (".inf", json!(".inf")),
        ("2001-01-01", json!("2001-01-01")),
        ("99999999999999999999", json!("99999999999999999999")),
        ("~", json!(null)),
        ("", json!(null)),
        ("'on'", json!("on")),
        ("\"\\x41\"", json!("A")),
        ("!!str 5", json!("5")),
        ("!!int \"7\"", json!(7)),
        ("1.2.3", json!("1.2.3")),
        (".", json!(".")),
        ("-", json!([null])),
    ] {
        assert_eq!(parse(text).expect(text), expected, "{text:?}");
    }
}

#[test]
fn mappings_merge_and_keys_become_text() {
    let text = "base: &base {a: 1, b: 2}\nnode:\n  <<: *base\n  b: 3\n5: five\non: yes\n~: x\nb: 1\nb: 2\n";
    let expected =
        json!({"base": {"a": 1, "b": 2}, "node": {"a": 1, "b": 3}, "5": "five", "true": true, "null": "x", "b": 2});
    assert_eq!(parse(text).expect("valid"), expected);
    assert_eq!(parse("# nothing\n").expect("valid"), Value::Null);
}

#[rstest]
#[case("a: [1\nb: 2\n", 2, 2)]
#[case("a: @x\n", 1, 4)]
#[case("a: \t1\n\tb: 2\n", 1, 5)]
#[case("a: 1\n---\nb: 2\n", 2, 1)]
#[case("a: !foo 1\n", 1, 9)]
#[case("? [a]\n: 1\n", 1, 3)]
#[case("<<: 5\n", 1, 5)]
#[case("a: *b\n", 1, 4)]
#[case("a: &x [*x]\n", 1, 8)]
fn bad_documents_are_located(#[case] text: &str, #[case] line: usize, #[case] column: usize) {
    let error = parse(text).expect_err(text);
    assert_eq!((error.line, error.column), (line, column), "{text:?}: {error}");
    assert!(!error.what.is_empty() && !error.what.contains('\n'), "{error}");
}

#[test]
fn expansion_and_nesting_are_bounded() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let below = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    assert_eq!(parse(&bomb).expect_err("too much").what, "more than 100000 values");
    assert_eq!(
        parse(&("[".repeat(100) + &"]".repeat(100))).expect_err("too deep").what,
        "nested more than 64 levels deep"
    );
}

fn any_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[ -~]{0,12}",
        "\\PC{0,8}",
        prop::sample::select(vec![
            "on", "0640", "1:30", "null", "~", "a\nb\n", "'", "1e3", "- x", "# x", "a: b", "\u{85}x"
        ])
        .prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(text.clone(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(value in any_value()) {
        let text = to_text(&value);
        prop_assert_eq!(parse(&text).map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?, value, "{}", text);
    }

    #[test]
    fn no_text_panics(text in "[-:?\\[\\]{}&*!|>'\"%@`# a0\n\t.,<~]{0,40}") {
        let _ = parse(&text);
    }
}
