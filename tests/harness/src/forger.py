"""Forges an ICMP error for packets that pass a device: a router that complains of what it forwards.

One argument, a JSON object: device, family (4 or 6), port (of the service), on (`syn`, `ack` for the
end of the handshake, `data`), type, code, most (how many errors). Prints `ready` when it listens.
"""

import json
import socket
import struct
import sys

SYN, ACK = 0x02, 0x10


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def split(packet, v6):
    """Source address, length of the IP header, end of the packet; None for what is not TCP."""
    if v6:
        return (packet[8:24], 40, 40 + struct.unpack("!H", packet[4:6])[0]) if packet[6] == 6 else None
    length = (packet[0] & 15) * 4
    return (packet[12:16], length, struct.unpack("!H", packet[2:4])[0]) if packet[9] == 6 else None


def main():
    rule = json.loads(sys.argv[1])
    v6 = rule["family"] == 6
    protocol = 0x86DD if v6 else 0x0800
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(protocol))
    sniffer.bind((rule["device"], protocol))
    family = socket.AF_INET6 if v6 else socket.AF_INET
    kind = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
    sender = socket.socket(family, socket.SOCK_RAW, kind)
    print("ready", flush=True)
    left = rule["most"]
    while left:
        packet, address = sniffer.recvfrom(65535)
        parts = split(packet, v6) if address[2] != socket.PACKET_OUTGOING else None
        if parts is None:
            continue
        source, start, end = parts
        tcp = bytearray(packet[start:end])
        port, sequence, flags = *struct.unpack("!HI", tcp[2:8]), tcp[13]
        payload = len(tcp) - (tcp[12] >> 4) * 4
        seen = "syn" if flags & SYN else "data" if payload else "ack"
        if port != rule["port"] or seen != rule["on"]:
            continue
        # The receiver believes an error about bytes it has not seen acknowledged yet: the end of
        # these, if the acknowledgement is quicker than the error.
        tcp[4:8] = struct.pack("!I", (sequence + payload) & 0xFFFFFFFF)
        quoted = (packet[:start] + bytes(tcp))[:500]
        head = struct.pack("!BBHI", rule["type"], rule["code"], 0, 0)
        if not v6:
            head = struct.pack("!BBHI", rule["type"], rule["code"], checksum(head + quoted), 0)
        target = socket.inet_ntop(family, source)
        sender.sendto(head + quoted, (target, 0))
        print(f"{seen} {target}", flush=True)
        left -= 1


main()
