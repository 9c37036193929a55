use super::*;
use crate::ctl::commands;

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn call(text: &str) -> Result<Call, CtlError> {
    let Typed::Words {
        name,
        before,
        after,
    } = split(words(text))
    else {
        panic!("help");
    };
    let command = commands::all().find(|command| command.name == name);
    parse(command.expect("a command"), before, after)
}

#[test]
fn a_usage_text_is_what_is_read() {
    let shape = Shape::of("[--if-empty|-e] [--limit <n>] <queue> [<reason>] [<column>...]");
    assert_eq!(
        shape,
        Shape {
            required: vec!["queue"],
            optional: vec!["reason"],
            rest: true,
            switches: vec![("--if-empty", "-e", false), ("--limit", "", true)],
        }
    );
}

#[test]
fn options_are_anywhere() {
    let call = call("-q -n rabbit@host set_policy -p v name ^a {} --priority=3 -f json");
    let call = call.expect("a call");
    assert_eq!(
        (call.vhost(), call.options.quiet, call.options.format),
        ("v", true, Format::Json)
    );
    assert_eq!(
        ["name", "pattern", "definition", "--priority", "--apply-to"].map(|name| call.get(name)),
        [Some("name"), Some("^a"), Some("{}"), Some("3"), None]
    );
    assert_eq!(call.integer("--priority"), Ok(Some(3)));
}

#[test]
fn a_command_s_own_option_comes_first() {
    let call = call("list_user_limits --user a").expect("a call");
    assert_eq!((call.get("--user"), &call.options.user), (Some("a"), &None));
}

#[test]
fn after_two_dashes_there_are_no_options() {
    let call = call("add_user a -- -pw").expect("a call");
    assert_eq!(call.get("password"), Some("-pw"));
}

#[test]
fn what_is_wrong_is_said() {
    for (text, said) in [
        ("add_user", "needs <username>"),
        ("delete_user a b", "'b' is one too many"),
        ("list_queues --sillent", "did you mean `--silent`?"),
        ("list_queues -p", "-p needs a value"),
        ("list_queues --quiet=1", "takes no value"),
        ("list_queues -f erlang", "unknown formatter 'erlang'"),
        ("list_queues -t soon", "takes seconds"),
    ] {
        let error = call(text).expect_err(text);
        assert_eq!(error.code(), 64, "{text}");
        assert!(error.to_string().contains(said), "{text}: {error}");
    }
}

#[test]
fn templates_are_filled() {
    let call = call("set_user_tags -p / a/b x y").expect("a call");
    let upper = |text: &str| text.to_uppercase();
    assert_eq!(
        call.fill("{vhost}|{username}|{rest}|", upper),
        "/|A/B|x, y|"
    );
    let call = self::call("delete_vhost -p other v").expect("a call");
    assert_eq!(call.text("vhost"), "v", "the argument, not the option");
}

#[test]
fn help_is_about_a_command_or_all() {
    let about = |text| match split(words(text)) {
        Typed::Help(about) => about,
        Typed::Words { .. } => panic!("{text}"),
    };
    assert_eq!(about("help list_queues").as_deref(), Some("list_queues"));
    assert_eq!(about("--help"), None);
    assert!(call("list_queues --help").expect("a call").options.help);
}
