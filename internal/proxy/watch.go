package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A ruleWatch tells of changes that others make to the kernel's rules.
type ruleWatch struct {
	file *os.File
	done chan struct{}
}

// watchRules calls changed after somebody else changed a table, a chain or a
// rule, and when it may have missed that. Elements of sets do not count.
func watchRules(own string, changed func()) (*ruleWatch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	w := &ruleWatch{file: os.NewFile(uintptr(fd), "nftables"), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		buf := make([]byte, 64<<10)
		for {
			n, err := w.file.Read(buf)
			switch {
			case errors.Is(err, unix.ENOBUFS):
				changed()
			case err != nil:
				return
			case concerns(buf[:n], own):
				changed()
			}
		}
	}()
	return w, nil
}

func (w *ruleWatch) stop() {
	w.file.Close()
	<-w.done
}

// concerns reports whether one of the messages is about another's table, chain
// or rule, or about the end of one of ours.
func concerns(b []byte, own string) bool {
	for len(b) >= unix.SizeofNlMsghdr+4 {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return true
		}
		typ := binary.NativeEndian.Uint16(b[4:]) & 0xff
		ours := tableName(b[unix.SizeofNlMsghdr+4:size]) == own
		switch typ {
		case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN:
			return true
		case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
			if !ours {
				return true
			}
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return false
}

// tableName reads the first attribute, which is the name of the table in all of these messages.
func tableName(b []byte) string {
	if len(b) < 5 {
		return ""
	}
	size := int(binary.NativeEndian.Uint16(b))
	if size < 5 || size > len(b) {
		return ""
	}
	return string(b[4 : size-1])
}
