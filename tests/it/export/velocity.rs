//! As much of the Velocity Template Language as exported templates use, and as Genesys Cloud documents it: references, silent
//! ones, `$esc.jsonString`, and an `#if` that asks whether a text is empty.

use std::collections::BTreeMap;

/// The references that are known, such as `input.tenant_id`.
pub(super) type Known = BTreeMap<String, String>;

/// A reference to something unknown stands for itself, a silent one for nothing.
pub(super) fn render(template: &str, known: &Known) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['$', '#']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("#if(\"") {
            let (asked, after) = after.split_once("\" != \"\")").expect("the one condition that is understood");
            let (inside, after) = after.split_once("#end").expect("an end");
            if !render(asked, known).is_empty() {
                out.push_str(&render(inside, known));
            }
            rest = after;
        } else if let Some(Reference { value, silent, length }) = reference(rest, known) {
            let literal = if silent { "" } else { &rest[..length] };
            out.push_str(value.as_deref().unwrap_or(literal));
            rest = &rest[length..];
        } else {
            out.push_str(&rest[..1]);
            rest = &rest[1..];
        }
    }
    out + rest
}

struct Reference {
    value: Option<String>,
    silent: bool,
    length: usize,
}

fn reference(text: &str, known: &Known) -> Option<Reference> {
    let after = text.strip_prefix('$')?;
    let silent = after.starts_with('!');
    let after = after.strip_prefix('!').unwrap_or(after);
    let (value, rest) = if let Some(argument) = after.strip_prefix("esc.jsonString(") {
        let inner = reference(argument, known).expect("a reference in the brackets");
        (inner.value.as_deref().map(escaped), argument[inner.length..].strip_prefix(')').expect("a closing bracket"))
    } else {
        let (name, rest) = after.strip_prefix('{')?.split_once('}').expect("a closing brace");
        (known.get(name).cloned(), rest)
    };
    Some(Reference { value, silent, length: text.len() - rest.len() })
}

/// The text inside a JSON string.
fn escaped(text: &str) -> String {
    let json = serde_json::to_string(text).expect("a text");
    json[1..json.len() - 1].to_owned()
}

#[test]
fn it_renders_as_the_velocity_user_guide_says() {
    let known = Known::from([("a".to_owned(), "x \"y\"\n".to_owned()), ("none".to_owned(), String::new())]);
    for (template, rendered) in [
        ("${a}|$!{a}|${b}|$!{b}|", "x \"y\"\n|x \"y\"\n|${b}||"),
        ("$!esc.jsonString($!{a})|$!esc.jsonString($!{b})|$esc.jsonString(${b})", r#"x \"y\"\n||$esc.jsonString(${b})"#),
        (r#"#if("$!{a}" != "")yes ${a}#end#if("$!{b}" != "")no#end#if("$!{none}" != "")no#end"#, "yes x \"y\"\n"),
        ("$ # 5$ {a} é", "$ # 5$ {a} é"),
    ] {
        assert_eq!(render(template, &known), rendered);
    }
}
