use proptest::{prelude::*, sample::select};

use super::*;

fn jail(name: &str) -> Subject {
    Subject::jail(name).unwrap()
}

fn refused(subject: Subject, resource: Resource, action: Action, amount: u64) -> String {
    Rule::new(subject, resource, action, amount).unwrap_err().to_string()
}

#[test]
fn rules_are_written_as_the_kernel_reads_them() {
    let rule = |resource, action, amount| {
        Rule::new(jail("coppice-1"), resource, action, amount).unwrap().to_string()
    };
    assert_eq!(rule(Resource::PCpu, Action::Deny, 50), "jail:coppice-1:pcpu:deny=50");
    assert_eq!(
        rule(Resource::MemoryUse, Action::Signal(Signal::Kill), 1 << 30),
        "jail:coppice-1:memoryuse:sigkill=1073741824"
    );
    let each = Rule::new(jail("j"), Resource::OpenFiles, Action::Deny, 9).unwrap();
    assert_eq!(each.per(Per::Process).unwrap().to_string(), "jail:j:openfiles:deny=9/process");
}

#[test]
fn filters_are_written_as_the_kernel_reads_them() {
    assert_eq!(Filter::default().to_string(), "::");
    assert_eq!(Filter::of(jail("j")).to_string(), "jail:j:");
    assert_eq!(Filter::every(Per::Jail).to_string(), "jail::");
    let maxproc = Filter::of(jail("j")).resource(Resource::MaxProc);
    assert_eq!(maxproc.to_string(), "jail:j:maxproc");
    assert_eq!(maxproc.action(Action::Deny).to_string(), "jail:j:maxproc:deny");
    let rule: Rule = "jail:j:maxproc:deny=9".parse().unwrap();
    assert_eq!(Filter::from(&rule).to_string(), "jail:j:maxproc:deny=9/jail");
}

#[test]
fn what_the_kernel_does_not_count_that_way_is_refused() {
    use Resource::*;
    let deny = |resource| Rule::new(jail("j"), resource, Action::Deny, 1).is_ok();
    let denied: Vec<_> = Resource::ALL.iter().copied().filter(|it| !deny(*it)).collect();
    assert_eq!(denied, [CpuTime, WallClock, ReadBps, WriteBps, ReadIops, WriteIops]);

    let throttle = |resource| Rule::new(jail("j"), resource, Action::Throttle, 1).is_ok();
    let throttled: Vec<_> = Resource::ALL.iter().copied().filter(|it| throttle(*it)).collect();
    assert_eq!(throttled, [ReadBps, WriteBps, ReadIops, WriteIops]);

    let single = |resource| Rule::new(Subject::Process(1), resource, Action::Log, 1).is_ok();
    let shared: Vec<_> = Resource::ALL.iter().copied().filter(|it| !single(*it)).collect();
    assert_eq!(
        shared,
        [PseudoTerminals, SwapUse, MsgqQueued, MsgqSize, NMsgq, NSem, NShm, ShmSize]
    );
}

#[test]
fn the_reason_is_said() {
    let deny = Action::Deny;
    assert_eq!(
        refused(jail("j"), Resource::CpuTime, deny, 5),
        r#""jail:j:cputime:deny=5": cputime can be counted, but not denied"#
    );
    assert_eq!(
        refused(jail("j"), Resource::PCpu, deny, 1 << 62),
        r#""jail:j:pcpu:deny=4611686018427387904": the most that the kernel counts is 9223372036854"#
    );
    assert_eq!(
        refused(jail("j"), Resource::WriteBps, Action::Throttle, 0),
        r#""jail:j:writebps:throttle=0": a rate of nothing cannot be throttled to"#
    );
    let each = Rule::new(jail("j"), Resource::SwapUse, deny, 5).unwrap().per(Per::Process);
    assert_eq!(
        each.unwrap_err().to_string(),
        r#""jail:j:swapuse:deny=5/process": swapuse is not counted for single processes"#
    );
}

#[test]
fn names_that_would_end_early_are_refused() {
    for name in ["", "a:b", "a,b", "a\0b", &"x".repeat(256)] {
        Subject::jail(name).unwrap_err();
        // Nor can the check be passed by.
        Rule::new(Subject::Jail(name.to_owned()), Resource::MaxProc, Action::Deny, 1).unwrap_err();
        Filter::of(Subject::Jail(name.to_owned())).check().unwrap_err();
    }
    Subject::jail(&"x".repeat(255)).unwrap();
    assert_eq!(
        Subject::jail("a:b").unwrap_err().to_string(),
        r#""a:b": ':' in the name of a jail would end it"#
    );
    let class = |name: String| Filter::of(Subject::LoginClass(name)).check();
    class("x".repeat(32)).unwrap();
    class("x".repeat(33)).unwrap_err();
}

#[test]
fn text_that_is_no_rule_is_refused_with_the_reason() {
    for (text, why) in [
        ("", "no subject"),
        ("jail", "the subject has no name"),
        ("jail::maxproc:deny=1", "the subject has no name"),
        (":j:maxproc:deny=1", "a subject without its kind"),
        ("zone:j:maxproc:deny=1", "no such kind of subject"),
        ("jail:j", "no resource"),
        ("jail:j:disk:deny=1", "no such resource"),
        ("jail:j:maxproc", "no action"),
        ("jail:j:maxproc:forbid=1", "no such action"),
        ("jail:j:maxproc:deny", "no amount"),
        ("jail:j:maxproc:deny=1k", "the amount is no plain number"),
        ("jail:j:maxproc:deny=-1", "the amount is no plain number"),
        ("jail:j:maxproc:deny=99999999999999999999", "the amount is no plain number"),
        ("jail:j:maxproc:deny/user", "the amount is no plain number"),
        ("jail:j:maxproc:deny=1/zone", "no such thing to count per"),
        ("process:x:maxproc:deny=1", "no number of a process"),
        ("process:+1:maxproc:deny=1", "no number of a process"),
        ("process:0:maxproc:deny=1", "no process has this number"),
        ("user:4294967296:maxproc:deny=1", "no number of a user"),
    ] {
        let error = text.parse::<Rule>().unwrap_err().to_string();
        assert!(error.ends_with(why), "{text}: {error}");
    }
}

#[test]
fn the_list_that_the_kernel_answers_is_read() {
    assert_eq!(Rule::parse_list("").unwrap(), []);
    let rules = Rule::parse_list("jail:a:pcpu:deny=50,user:0:nthr:log=9/process").unwrap();
    assert_eq!(rules[0].subject(), &jail("a"));
    assert_eq!((rules[1].subject(), rules[1].counted_per()), (&Subject::User(0), Per::Process));
    Rule::parse_list("jail:a:pcpu:deny=50,rubbish").unwrap_err();
}

/// A name can have all but the three.
fn name() -> impl Strategy<Value = String> {
    "[^:,\0]{1,10}"
}

fn subject() -> impl Strategy<Value = Subject> {
    prop_oneof![
        (1..=i32::MAX).prop_map(Subject::Process),
        any::<u32>().prop_map(Subject::User),
        "[a-z]{1,32}".prop_map(Subject::LoginClass),
        name().prop_map(Subject::Jail),
    ]
}

fn resource() -> impl Strategy<Value = Resource> {
    select(Resource::ALL)
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Deny),
        Just(Action::Log),
        Just(Action::Devctl),
        Just(Action::Throttle),
        select(Signal::ALL).prop_map(Action::Signal),
    ]
}

proptest! {
    #[test]
    fn a_rule_is_read_as_it_was_written(
        subject in subject(), resource in resource(), action in action(), amount: u64,
        per in select(Per::ALL),
    ) {
        let rule = Rule::new(subject, resource, action, amount % (1 << 43)).and_then(|it| it.per(per));
        if let Ok(rule) = rule {
            prop_assert_eq!(rule.to_string().parse(), Ok(rule.clone()));
            let filter = Filter::from(&rule);
            prop_assert_eq!(filter.to_string().parse(), Ok(filter));
            let twice = format!("{rule},{rule}");
            prop_assert_eq!(Rule::parse_list(&twice), Ok(vec![rule.clone(), rule]));
        }
    }

    #[test]
    fn a_filter_is_read_as_it_was_written(
        subject in proptest::option::of(prop_oneof![
            subject().prop_map(subject::Scope::One),
            select(Per::ALL).prop_map(subject::Scope::Every),
        ]),
        resource in proptest::option::of(resource()),
        action in proptest::option::of(action()),
        amount: Option<u64>,
        per in proptest::option::of(select(Per::ALL)),
    ) {
        let filter = Filter { subject, resource, action, amount, per };
        prop_assert_eq!(filter.to_string().parse(), Ok(filter));
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        let _ = text.parse::<Rule>();
        let _ = text.parse::<Filter>();
        let _ = Rule::parse_list(&text);
        let _ = Subject::jail(&text);
    }

    #[test]
    fn no_mixture_of_its_own_words_makes_it_panic(
        text in "(jail|user|process|deny|log|pcpu|maxproc|é|:|=|/|,|-|[0-9]{1,25}){0,30}",
    ) {
        if let Ok(rule) = text.parse::<Rule>() {
            // Whatever is read is whole.
            prop_assert_eq!(rule.to_string().parse(), Ok(rule));
        }
        let _ = text.parse::<Filter>();
        let _ = Rule::parse_list(&text);
    }
}
