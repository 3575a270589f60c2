package predict

import "time"

// Linux is what the same comes to with Linux's defaults, for comparison. The
// sources are tcp(7) and the kernel's Documentation/networking/ip-sysctl.rst.
type Linux struct {
	Idle      time.Duration // tcp_keepalive_time 7200, intvl 75, probes 9; only where SO_KEEPALIVE is set
	Data      time.Duration // tcp_retries2 15 at the shortest RTO: 924.6 s
	SYN       time.Duration // tcp_syn_retries 6
	SYNACK    time.Duration // tcp_synack_retries 5
	FinWait2  time.Duration // tcp_fin_timeout, of orphans; never for others
	TimeWait  time.Duration // TCP_TIMEWAIT_LEN, fixed
	Orphan    time.Duration // tcp_orphan_retries 0, which means 8, at the shortest RTO
	TimeWaits int           // tcp_max_tw_buckets, of machines with some GB of memory
}

// LinuxDefaults are those of a kernel nobody has tuned.
func LinuxDefaults() Linux {
	return Linux{
		Idle:      7200*time.Second + 9*75*time.Second,
		Data:      924600 * time.Millisecond,
		SYN:       127 * time.Second,
		SYNACK:    63 * time.Second,
		FinWait2:  60 * time.Second,
		TimeWait:  60 * time.Second,
		Orphan:    102200 * time.Millisecond,
		TimeWaits: 262144,
	}
}
