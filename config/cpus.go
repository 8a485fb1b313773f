package config

import "strings"

// maxCPU is one less than CPU_SETSIZE, beyond which sched_setaffinity(2) has
// no bit.
const maxCPU = 1023

// ParseCPUs reads a list of CPUs as of taskset(1): 2-5,8. It must be as
// cpuList leaves it.
func ParseCPUs(list string) (cpus []int, err error) {
	const want = "want CPUs such as 2-5 or 0,2,4; each once, from 0 to 1023"
	var taken [maxCPU + 1]bool
	for part := range strings.SplitSeq(list, ",") {
		a, b, isRange := strings.Cut(part, "-")
		if !isRange {
			b = a
		}
		from, err := parseNumber(a, 0, maxCPU, want)
		if err != nil {
			return nil, err
		}
		to, err := parseNumber(b, from, maxCPU, want)
		if err != nil {
			return nil, err
		}
		for cpu := from; cpu <= to; cpu++ {
			if taken[cpu] {
				return nil, wrong(want)
			}
			taken[cpu] = true
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

func cpuList(list string) (string, error) {
	_, err := ParseCPUs(list)
	return list, err
}
