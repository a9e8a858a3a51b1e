//! Which generation a GPU is of, from its name: DCGM tells no more, and NVML does not tell GA100 from the other Amperes.

use crate::telemetry::Architecture;

/// The architecture of the model `name`, as `NVIDIA A100-SXM4-80GB`; unknown where the name says nothing.
pub fn architecture_of(name: &str) -> Architecture {
    let words = || name.split(|c: char| !c.is_ascii_alphanumeric());
    let has = |word: &str| words().any(|w| w.eq_ignore_ascii_case(word));
    // `RTX 4000 Ada Generation` and `RTX PRO 6000 Blackwell` say it.
    if has("Ada") {
        return Architecture::Ada;
    }
    if has("Blackwell") {
        return Architecture::Blackwell;
    }
    if let Some(found) = words().find_map(of_word) {
        return found;
    }
    // GeForce: the generation is in the number, and `RTX 6000` alone is Turing's Quadro.
    if has("GeForce") {
        return match words().find_map(|w| w.parse::<u32>().ok()) {
            Some(5000..6000) => Architecture::Blackwell,
            Some(4000..5000) => Architecture::Ada,
            Some(3000..4000) => Architecture::AmpereGa10x,
            Some(1600..1700 | 2000..3000) => Architecture::Turing,
            Some(..1100) => Architecture::PascalOrOlder,
            _ => Architecture::Unknown,
        };
    }
    if has("Quadro") && has("RTX") || has("TITAN") && has("RTX") {
        return Architecture::Turing;
    }
    Architecture::Unknown
}

/// What a single word of a name says.
fn of_word(word: &str) -> Option<Architecture> {
    let word = word.to_ascii_uppercase();
    Some(match word.as_str() {
        "A100" | "A100X" | "A800" | "A30" | "A30X" => Architecture::AmpereGa100,
        "A10" | "A10G" | "A10M" | "A16" | "A2" | "A40" | "A2000" | "A4000" | "A4500" | "A5000"
        | "A5500" | "A6000" => Architecture::AmpereGa10x,
        "L2" | "L4" | "L20" | "L40" | "L40S" | "L40G" => Architecture::Ada,
        "H20" | "H100" | "H200" | "H800" | "GH200" => Architecture::Hopper,
        "B100" | "B200" | "B300" | "GB200" | "GB300" => Architecture::Blackwell,
        "T4" | "T4G" | "T400" | "T600" | "T1000" => Architecture::Turing,
        "V100" | "V100S" | "GV100" => Architecture::Volta,
        "P4" | "P40" | "P100" | "P6" | "GP100" | "K80" | "M40" | "M60" => {
            Architecture::PascalOrOlder
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_the_generation() {
        for (name, architecture) in [
            ("NVIDIA A100-SXM4-80GB", Architecture::AmpereGa100),
            (
                "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
                Architecture::AmpereGa100,
            ),
            ("NVIDIA A30", Architecture::AmpereGa100),
            ("NVIDIA A10G", Architecture::AmpereGa10x),
            ("NVIDIA RTX A6000", Architecture::AmpereGa10x),
            ("NVIDIA GeForce RTX 3090", Architecture::AmpereGa10x),
            ("NVIDIA L40S", Architecture::Ada),
            ("NVIDIA L4", Architecture::Ada),
            ("NVIDIA RTX 4000 Ada Generation", Architecture::Ada),
            ("NVIDIA GeForce RTX 4090", Architecture::Ada),
            ("NVIDIA H100 80GB HBM3", Architecture::Hopper),
            ("NVIDIA-H100-80GB-HBM3", Architecture::Hopper),
            ("NVIDIA GH200 480GB", Architecture::Hopper),
            ("NVIDIA B200", Architecture::Blackwell),
            (
                "NVIDIA RTX PRO 6000 Blackwell Server Edition",
                Architecture::Blackwell,
            ),
            ("NVIDIA GeForce RTX 5090", Architecture::Blackwell),
            ("Tesla T4", Architecture::Turing),
            ("Quadro RTX 6000", Architecture::Turing),
            ("NVIDIA GeForce GTX 1660", Architecture::Turing),
            ("Tesla V100-SXM2-16GB", Architecture::Volta),
            ("NVIDIA GeForce GTX 1080", Architecture::PascalOrOlder),
            ("Tesla P100-PCIE-16GB", Architecture::PascalOrOlder),
            ("NVIDIA X9000", Architecture::Unknown),
            ("", Architecture::Unknown),
        ] {
            assert_eq!(architecture_of(name), architecture, "{name}");
        }
    }
}
