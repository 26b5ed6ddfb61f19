//! docs/events.md against what is told.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Kind, event::tests::each};

const DOCUMENT: &str = include_str!("../../../docs/events.md");

fn schema() -> Value {
    let blocks = DOCUMENT.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let schema = blocks.into_iter().find(|block| block.contains("$schema")).unwrap();
    serde_json::from_str(schema).unwrap()
}

fn names(value: &Value) -> BTreeSet<&str> {
    match value {
        Value::Object(fields) => fields.keys().map(String::as_str).collect(),
        Value::Array(names) => names.iter().map(|name| name.as_str().unwrap()).collect(),
        other => panic!("{other}"),
    }
}

/// The row of the table of types, without the last two columns.
fn row(kind: &str) -> &'static str {
    let quoted = format!("`{kind}`");
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `"));
    let row = rows.into_iter().find(|line| line.split(" | ").next().unwrap().contains(&quoted));
    row.unwrap_or_else(|| panic!("{kind} is in no table")).split(" | ").nth(1).unwrap()
}

#[test]
fn each_type_is_in_the_schema_and_the_table_with_all_its_fields() {
    let schema = schema();
    let variants = schema["$defs"]["event"]["oneOf"].as_array().unwrap();
    assert_eq!(variants.len(), Kind::ALL.len());
    for what in each() {
        let kind = what.kind();
        let variant = variants.iter().map(|variant| &variant["properties"]);
        let variant = variant.into_iter().find(|it| it["type"]["const"] == kind).expect(kind);
        let (known, required) = (&variant["data"]["properties"], &variant["data"]["required"]);
        let told = serde_json::to_value(&what).unwrap();
        assert!(names(&told["data"]).is_subset(&names(known)), "{kind} {told}");
        assert!(names(required).is_subset(&names(&told["data"])), "{kind} {told}");
        for field in names(known) {
            assert!(
                row(kind).contains(&format!("`{field}`")),
                "{kind}: {field} is not in the table"
            );
        }
    }
}
