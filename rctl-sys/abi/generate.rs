//! Writes a C file, made from the tables of `rctl_sys::abi`, which compiles only where FreeBSD's
//! headers say the same, and links only where libc has every function that is called.

use std::fmt::{Display, Write};

use rctl_sys::abi;

fn main() {
    print!("{}", file());
}

fn file() -> String {
    let mut c = String::from("/* Generated from rctl-sys/src/abi.rs. */\n");
    for header in abi::HEADERS {
        line(&mut c, format_args!("#include <{header}>"));
    }
    for constant in abi::CONSTANTS.iter().chain(abi::borrowed::CONSTANTS) {
        let (name, value) = (constant.name, constant.value);
        equal(&mut c, name, value);
    }
    for structure in abi::STRUCTS {
        let name = structure.name;
        equal(&mut c, format_args!("sizeof({name})"), structure.size);
        for field in structure.fields {
            let (size, offset) = (field.size, field.offset);
            equal(&mut c, format_args!("offsetof({name}, {})", field.name), offset);
            equal(&mut c, format_args!("sizeof((({name} *)0)->{})", field.name), size);
        }
    }
    for function in abi::PROTOTYPES {
        let abi::Prototype { name, returns, takes } = function;
        line(&mut c, format_args!("{returns} (*use_{name}){takes} = {name};"));
    }
    c.push_str("int main(void) {\n    return 0");
    for function in abi::PROTOTYPES {
        // Volatile, so that none is optimised away.
        write!(c, "\n        + (*(void *volatile *)&use_{} == 0)", function.name)
            .expect("a string can be written to");
    }
    c.push_str(";\n}\n");
    c
}

fn equal(c: &mut String, what: impl Display, value: impl Display) {
    line(c, format_args!("_Static_assert(({what}) == ({value}), \"{what} is not {value}\");"));
}

fn line(c: &mut String, text: impl Display) {
    writeln!(c, "{text}").expect("a string can be written to");
}
