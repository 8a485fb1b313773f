#!/usr/bin/python3
"""codec.py FILE: scapy reads the headers of FILE, which vtep/geneve wrote (TestForeign), and
writes them from their fields. Prints how many of both were the same; status 1 if not all.

Two faults of scapy 2.5 are gone round: it takes all options behind the first for payload of
that one, and writes Opt Len without its bit 0x10 (a mask of 0x2f) unless it is given."""
import sys

from scapy.contrib.geneve import GENEVE, GeneveOptions


def fields(b):
    """The header b as scapy sees it, in the words of FILE."""
    g = GENEVE(b)
    words = [str(g.vni), str(g.proto), str(bool(g.oam)).lower(), str(bool(g.critical)).lower()]
    rest = b"".join(bytes(o) for o in g.options)
    while rest:
        o = GeneveOptions(rest)
        words.append("%d:%d:%s" % (o.classid, o.type, bytes(o.data).hex()))
        rest = bytes(o.payload)
    return words


def header(vni, proto, control, critical, *options):
    """The bytes that scapy makes of fields."""
    made = []
    for o in options:
        classid, kind, data = o.split(":")
        made.append(GeneveOptions(classid=int(classid), type=int(kind), data=bytes.fromhex(data)))
    length = sum(len(bytes(o)) for o in made) // 4
    return bytes(GENEVE(optionlen=length, vni=int(vni), proto=int(proto), oam=control == "true", critical=critical == "true", options=made))


def main():
    count = read = written = 0
    with open(sys.argv[1]) as f:
        for line in f:
            raw, *want = line.split()
            b = bytes.fromhex(raw)
            got, made = fields(b), header(*want)
            count += 1
            read += got == want
            written += made == b
            if got != want or made != b:
                print("other:", line.strip(), got, made.hex(), file=sys.stderr)
                sys.exit(1)
    print(count, read, written)
    sys.exit(0 if count == read == written and count else 1)


main()
