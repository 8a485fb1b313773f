package main

import (
	"strings"
	"testing"
)

func TestParseOptions(t *testing.T) {
	tests := []struct {
		args string
		want string // of the error, "": none
		runs int
		secs int
		only string
		labs string
	}{
		{args: "--only tcp1", runs: 9, secs: 3, only: "tcp1", labs: "veth,wire"},
		{args: "--quick --only ping", runs: 1, secs: 1, only: "ping", labs: "veth,wire"},
		{args: "--quick --runs 3 --secs 2 --only ping --labs wire", runs: 3, secs: 2, only: "ping", labs: "wire"},
		{args: "--only udp64,tcp4,tcp4 --labs wire,veth", runs: 9, secs: 3, only: "tcp4,udp64", labs: "veth,wire"},
		{args: "--only scale", runs: 9, secs: 3, only: "scale", labs: "veth,wire"},
		{args: "--only scale,ping", want: "scale is measured by itself"},
		{args: "--only tcp2", want: "--only tcp2: want some of tcp1,"},
		{args: "--labs air", want: "--labs air: want some of veth,wire,nic"},
		{args: "--contenders ipsec", want: "want some of gvtep,gvtep-vxlan,options,fast,busypoll,relay,vxlan,raw,wireguard"},
		{args: "--runs 0", want: "want at least 1"},
		{args: "tcp1", want: `unexpected word "tcp1"`},
	}
	for _, tt := range tests {
		o, err := parseOptions(strings.Fields(tt.args))
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: got error %v, want %q", tt.args, err, tt.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		only, labs := strings.Join(o.only, ","), strings.Join(o.labs, ",")
		if o.runs != tt.runs || o.secs != tt.secs || only != tt.only || labs != tt.labs {
			t.Errorf("%s: got runs %d secs %d only %s labs %s, want %d %d %s %s",
				tt.args, o.runs, o.secs, only, labs, tt.runs, tt.secs, tt.only, tt.labs)
		}
	}
}

func TestRoundTrips(t *testing.T) {
	const out = `PING 10.78.0.2 (10.78.0.2) 56(84) bytes of data.
64 bytes from 10.78.0.2: icmp_seq=1 ttl=64 time=0.043 ms
64 bytes from 10.78.0.2: icmp_seq=2 ttl=64 time=1.20 ms
64 bytes from 10.78.0.2: icmp_seq=3 ttl=64 time=12 ms

--- 10.78.0.2 ping statistics ---
3 packets transmitted, 3 received, 0% packet loss, time 4ms
rtt min/avg/max/mdev = 0.043/4.414/12.000/5.385 ms
`
	got, err := roundTrips(out)
	if err != nil || len(got) != 3 || got[0] != 43 || got[1] != 1200 || got[2] != 12000 {
		t.Errorf("got %v, %v, want 43 1200 12000 us", got, err)
	}
	for _, bad := range []string{"", "time=x ms", "time=3 s"} {
		if got, err := roundTrips("64 bytes from 10.78.0.2: " + bad + "\n"); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i) // 1 to 100, unsorted
	}
	tests := []struct {
		values []float64
		p      int
		want   float64
	}{
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
		{hundred, 0, 1},
		{[]float64{7}, 99, 7},
		{[]float64{3, 1, 2}, 50, 2},
	}
	for _, tt := range tests {
		if got := percentile(tt.values, tt.p); got != tt.want {
			t.Errorf("p%d of %d values: got %v, want %v", tt.p, len(tt.values), got, tt.want)
		}
	}
}

func TestTimes(t *testing.T) {
	const stat = "cpu  1000 200 300 99999 5000 10 20 4000 1000 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
	if got, want := busyTime([]byte(stat)), 15.3; got != want {
		t.Errorf("/proc/stat: got %v s, want %v", got, want)
	}
	const process = "77 (a ) (b) S 1 77 77 0 -1 4194560 1 0 0 0 150 250 0 0 20 0 5 0 100 1 1\n"
	if got, want := processTime([]byte(process)), 4.0; got != want {
		t.Errorf("/proc/PID/stat: got %v s, want %v", got, want)
	}
}

func TestProcessor(t *testing.T) {
	const info = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: Some CPU @ 3 GHz\nstepping\t: 1\n"
	if got, want := processor(info), "Some CPU @ 3 GHz"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := processor("processor : 0\n"); got == "" {
		t.Error("no model name: got nothing, want the architecture")
	}
}

func TestDigits(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 1.234: "1.23", 12.34: "12.3", 123.4: "123", -45.67: "-45.7", 51234.5: "51234"} {
		if got := digits(v); got != want {
			t.Errorf("%v: got %s, want %s", v, got, want)
		}
	}
}

// The whole table: medians of odd and even counts, ranges, ratios, what is
// missing, and differences taken round by round.
func TestMarkdown(t *testing.T) {
	tb := newTable()
	speed := row{"veth", "TCP", "Gbit/s"}
	for i, v := range []float64{9, 8, 10} {
		tb.add(speed, "gvtep", i+1, v)
		tb.add(speed, "vxlan", i+1, 2*v)
	}
	tb.add(speed, "raw", 1, 30)
	tb.add(speed, "raw", 2, 60)
	rtt := row{"veth", rttMiddle, "us"}
	for round, v := range map[int]float64{1: 50, 2: 90, 3: 60} {
		tb.add(rtt, "gvtep", round, v)
	}
	for round, v := range map[int]float64{1: 10, 2: 20} {
		tb.add(rtt, "raw", round, v)
	}
	tb.add(rtt, "vxlan", 1, 11)
	tb.add(row{"wire", "TCP", "Gbit/s"}, "gvtep", 1, 5)
	const want = `
### Lab ` + "`veth`" + `

| | gvtep | VXLAN | raw veth | to VXLAN | to raw veth |
| --- | ---: | ---: | ---: | ---: | ---: |
| TCP, Gbit/s | **9.00** (8.00-10.0) | **18.0** (16.0-20.0) | **45.0** (30.0-60.0) | 0.50 | 0.20 |
| ping RTT p50, us | **60.0** (50.0-90.0) | 11.0 | **15.0** (10.0-20.0) | 5.45 | 4.00 |
| ping RTT p50, added over raw, us | **55.0** (40.0-70.0) | 1.00 | - | - | - |

### Lab ` + "`wire`" + `

| | gvtep | VXLAN | raw veth | to VXLAN | to raw veth |
| --- | ---: | ---: | ---: | ---: | ---: |
| TCP, Gbit/s | 5.00 | - | - | - | - |
`
	if got := tb.markdown([]string{"veth", "wire"}); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
