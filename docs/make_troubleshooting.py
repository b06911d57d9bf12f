"""Write `docs/troubleshooting.md` from the rules of `kopt.advice`."""

from pathlib import Path

from kopt.advice.troubleshooting import troubleshooting

if __name__ == "__main__":
    Path(__file__).with_name("troubleshooting.md").write_text(troubleshooting(), encoding="utf-8")
