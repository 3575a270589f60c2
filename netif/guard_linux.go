package netif

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The guard is a filter at the card's tc ingress that drops every frame before
// the kernel's protocols see it: without one the kernel answers, resets or
// forwards what is meant for any of its addresses on any card (it follows the
// weak host model of RFC 1122, 3.3.4.2). Packet sockets get their copy earlier.

const (
	guardName  = "lastack"
	guardMark  = 0x6c617374 // "last": tells our filters from others, see mark
	guardFirst = 1          // priority in front of everybody else's filters

	guardBPF      = "bpf"
	guardMatchall = "matchall"

	actShot   = 2          // TC_ACT_SHOT
	actUnspec = 0xffffffff // TC_ACT_UNSPEC: ask the next filter

	skfVLANTag     = 0xfffff000 + 44 // SKF_AD_OFF + SKF_AD_VLAN_TAG
	skfVLANPresent = 0xfffff000 + 48 // SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT
	vlanIDMask     = 0xfff

	tcHead       = nl.SizeofTcMsg
	tcIngress    = netlink.HANDLE_MIN_INGRESS
	tcEgress     = netlink.HANDLE_MIN_EGRESS
	clsactQdisc  = "clsact"
	ingressQdisc = "ingress" // the older form of clsact, it takes the same filters
)

// guardAll drops everything. Classic BPF: an unprivileged namespace may load
// no other, and cls_bpf takes it as it is.
var guardAll = []unix.SockFilter{
	{Code: unix.BPF_RET | unix.BPF_K, K: actShot},
	mark,
}

// mark is an instruction that is never reached, at the end of our programs:
// the kernel forgets the name of a filter made of classic BPF.
var mark = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: guardMark}

// guardUntagged lets frames of a VLAN through, for the kernel's VLAN links on
// the card. VLAN 0 marks a priority and no VLAN: the kernel takes such a frame
// as untagged.
var guardUntagged = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: skfVLANPresent},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 4},
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: skfVLANTag},
	{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: vlanIDMask},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: actUnspec},
	{Code: unix.BPF_RET | unix.BPF_K, K: actShot},
	mark,
}

// tcMessage is the fixed part of a traffic control message.
func tcMessage(index int, parent, handle, info uint32) []byte {
	return (&nl.TcMsg{Ifindex: int32(index), Parent: parent, Handle: handle, Info: info}).Serialize()
}

// hasIngress reports whether the card has a qdisc that ingress filters attach to.
func hasIngress(index int) (bool, error) {
	all, err := dump(unix.RTM_GETQDISC, unix.RTM_NEWQDISC, tcMessage(index, 0, 0, 0))
	if err != nil {
		return false, fmt.Errorf("list queueing disciplines: %w", err)
	}
	for _, raw := range all {
		if len(raw) < tcHead || int(binary.NativeEndian.Uint32(raw[4:])) != index {
			continue
		}
		switch unix.ByteSliceToString(attribute(raw[tcHead:], nl.TCA_KIND)) {
		case clsactQdisc, ingressQdisc:
			return true, nil
		}
	}
	return false, nil
}

// clsact is the qdisc itself, for adding and removing.
func clsact(index int) []byte {
	return appendAttribute(tcMessage(index, netlink.HANDLE_CLSACT, netlink.MakeHandle(0xffff, 0), 0),
		nl.TCA_KIND, nl.ZeroTerminated(clsactQdisc))
}

// setGuard puts the filter in place and returns its kind. tagged lets frames
// of VLANs through. A guard that a crashed process left is replaced without a
// moment in between.
func setGuard(index int, tagged bool) (string, error) {
	old, err := filtersOf(index, tcIngress)
	if err != nil {
		return "", err
	}
	if err := send(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, clsact(index)); err != nil && !errors.Is(err, unix.EEXIST) {
		if has, herr := hasIngress(index); herr != nil || !has {
			return "", fmt.Errorf("add a clsact queueing discipline: %w", err)
		}
	}
	kind, err := addGuard(index, tagged)
	if err != nil {
		return "", err
	}
	return kind, removeFilters(old)
}

// addGuard tries the forms of the filter in turn: first in the row, in front
// of whatever is first there, and without cls_bpf.
func addGuard(index int, tagged bool) (string, error) {
	prog := guardAll
	if tagged {
		prog = guardUntagged
	}
	err := addBPF(index, guardFirst, prog)
	if err != nil {
		err = addBPF(index, 0, prog) // 0: the kernel picks one before the first
	}
	if err == nil {
		return guardBPF, nil
	}
	err = fmt.Errorf("add a cls_bpf filter: %w", err)
	if tagged {
		return "", err // matchall cannot spare the VLANs
	}
	if merr := addMatchall(index); merr != nil {
		return "", errors.Join(err, fmt.Errorf("add a matchall filter: %w", merr))
	}
	return guardMatchall, nil
}

func addBPF(index int, priority uint32, prog []unix.SockFilter) error {
	ops := make([]byte, 0, len(prog)*unix.SizeofSockFilter)
	for _, p := range prog {
		ops = binary.NativeEndian.AppendUint16(ops, p.Code)
		ops = append(ops, p.Jt, p.Jf)
		ops = binary.NativeEndian.AppendUint32(ops, p.K)
	}
	options := appendAttribute(nil, nl.TCA_BPF_OPS_LEN, nl.Uint16Attr(uint16(len(prog))))
	options = appendAttribute(options, nl.TCA_BPF_OPS, ops)
	options = appendAttribute(options, nl.TCA_BPF_FLAGS, nl.Uint32Attr(nl.TCA_BPF_FLAG_ACT_DIRECT))
	options = appendAttribute(options, nl.TCA_BPF_NAME, nl.ZeroTerminated(guardName))
	req := tcMessage(index, tcIngress, 0, priority<<16|uint32(htons(unix.ETH_P_ALL)))
	req = appendAttribute(req, nl.TCA_KIND, nl.ZeroTerminated(guardBPF))
	req = appendAttribute(req, nl.TCA_OPTIONS, options)
	return send(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL, req)
}

func addMatchall(index int) error {
	return netlink.FilterAdd(&netlink.MatchAll{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: tcIngress, Handle: guardMark, Priority: guardFirst, Protocol: unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{&netlink.GenericAction{ActionAttrs: netlink.ActionAttrs{Action: netlink.TC_ACT_SHOT}}},
	})
}

// filtersOf returns the filters at one side of the card.
func filtersOf(index int, parent uint32) ([][]byte, error) {
	all, err := dump(unix.RTM_GETTFILTER, unix.RTM_NEWTFILTER, tcMessage(index, parent, 0, 0))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // no qdisc that has filters
	}
	if err != nil {
		return nil, fmt.Errorf("list filters: %w", err)
	}
	var found [][]byte
	for _, raw := range all {
		// A filter's own handle is 0 in the entry of the list it is in.
		if len(raw) >= tcHead && binary.NativeEndian.Uint32(raw[8:]) != 0 {
			found = append(found, raw)
		}
	}
	return found, nil
}

// guardOf is the kind of the filter that is in place, "" without one.
func guardOf(index int) (string, error) {
	all, err := filtersOf(index, tcIngress)
	for _, raw := range all {
		if isGuard(raw) {
			return unix.ByteSliceToString(attribute(raw[tcHead:], nl.TCA_KIND)), nil
		}
	}
	return "", err
}

// isGuard reports whether a filter was made by addGuard.
func isGuard(raw []byte) bool {
	switch unix.ByteSliceToString(attribute(raw[tcHead:], nl.TCA_KIND)) {
	case guardBPF:
		ops := attribute(attribute(raw[tcHead:], nl.TCA_OPTIONS), nl.TCA_BPF_OPS)
		return len(ops) >= 4 && binary.NativeEndian.Uint32(ops[len(ops)-4:]) == guardMark
	case guardMatchall:
		return binary.NativeEndian.Uint32(raw[8:]) == guardMark
	}
	return false
}

// removeFilters removes those of the filters that are guards.
func removeFilters(filters [][]byte) error {
	var errs []error
	for _, raw := range filters {
		if !isGuard(raw) {
			continue
		}
		req := appendAttribute(raw[:tcHead:tcHead], nl.TCA_KIND, attribute(raw[tcHead:], nl.TCA_KIND))
		if err := send(unix.RTM_DELTFILTER, 0, req); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove the guard filter: %w", err))
		}
	}
	return errors.Join(errs...)
}

// removeGuard takes the filter away, and the qdisc unless it was there before
// or has filters of somebody else by now.
func removeGuard(index int, hadIngress bool) error {
	filters, err := filtersOf(index, tcIngress)
	if err != nil {
		return err
	}
	if err := removeFilters(filters); err != nil {
		return err
	}
	if has, err := hasIngress(index); err != nil || !has || hadIngress {
		return err
	}
	for _, parent := range []uint32{tcIngress, tcEgress} {
		left, err := filtersOf(index, parent)
		if err != nil || len(left) > 0 {
			return err
		}
	}
	if err := send(unix.RTM_DELQDISC, 0, clsact(index)); err != nil {
		return fmt.Errorf("remove the clsact queueing discipline: %w", err)
	}
	return nil
}
