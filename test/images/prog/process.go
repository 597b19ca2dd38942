package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// duration reads seconds or Go's notation.
func duration(s string) (time.Duration, error) {
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		return time.Duration(n * float64(time.Second)), nil
	}
	return time.ParseDuration(s)
}

func sleep(ctx context.Context, args []string) (int, error) {
	if len(args) != 1 {
		return 2, errors.New("want DURATION")
	}
	d, err := duration(args[0])
	if err != nil {
		return 2, err
	}
	_ = wait(ctx, d) // a signal is a good end
	return 0, nil
}

func trap(_ context.Context, args []string) (int, error) {
	var after time.Duration
	if len(args) == 2 && args[0] == "-for" {
		d, err := duration(args[1])
		if err != nil {
			return 2, err
		}
		after = d
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGQUIT)
	fmt.Println("trapping")
	var end <-chan time.Time
	for {
		select {
		case s := <-signals:
			fmt.Println("signal", s)
			if s == syscall.SIGTERM && end == nil {
				end = time.After(after)
			}
		case <-end:
			return 0, nil
		}
	}
}

func exit(_ context.Context, args []string) (int, error) {
	if len(args) != 1 {
		return 2, errors.New("want N")
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return 2, err
	}
	return n, nil
}

func crash(context.Context, []string) (int, error) {
	panic("crash was asked for")
}

func eat(ctx context.Context, args []string) (int, error) {
	if len(args) < 1 {
		return 2, errors.New("want MEGABYTES")
	}
	mb, err := strconv.Atoi(args[0])
	if err != nil {
		return 2, err
	}
	hold := time.Hour
	if len(args) > 1 {
		if hold, err = duration(args[1]); err != nil {
			return 2, err
		}
	}
	var held [][]byte
	for range mb {
		piece := make([]byte, 1<<20)
		for i := 0; i < len(piece); i += 4096 {
			piece[i] = 1
		}
		held = append(held, piece)
	}
	fmt.Println("holding", len(held), "MB")
	_ = wait(ctx, hold) // a signal is a good end
	runtime.KeepAlive(held)
	return 0, nil
}

func burn(ctx context.Context, args []string) (int, error) {
	if len(args) != 1 {
		return 2, errors.New("want DURATION")
	}
	d, err := duration(args[0])
	if err != nil {
		return 2, err
	}
	for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil; {
	}
	return 0, nil
}

func env(_ context.Context, args []string) (int, error) {
	if len(args) == 1 {
		v, ok := os.LookupEnv(args[0])
		if !ok {
			return 1, fmt.Errorf("%s is not set", args[0])
		}
		fmt.Println(v)
		return 0, nil
	}
	for _, v := range os.Environ() {
		fmt.Println(v)
	}
	return 0, nil
}

func write(_ context.Context, args []string) (int, error) {
	if len(args) != 2 {
		return 2, errors.New("want FILE and TEXT")
	}
	return result(writeFile(args[0], args[1]+"\n", os.O_TRUNC))
}

func appendTo(_ context.Context, args []string) (int, error) {
	if len(args) != 2 {
		return 2, errors.New("want FILE and TEXT")
	}
	return result(writeFile(args[0], args[1]+"\n", os.O_APPEND))
}

func result(err error) (int, error) {
	if err != nil {
		return 1, err
	}
	return 0, nil
}

func writeFile(name, text string, how int) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|how, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

func read(_ context.Context, args []string) (int, error) {
	if len(args) != 1 {
		return 2, errors.New("want FILE")
	}
	body, err := os.ReadFile(args[0])
	if err != nil {
		return 1, err
	}
	_, err = os.Stdout.Write(body)
	return result(err)
}

func logLines(ctx context.Context, args []string) (int, error) {
	if len(args) < 1 {
		return 2, errors.New("want N")
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return 2, err
	}
	var every time.Duration
	if len(args) > 1 {
		if every, err = duration(args[1]); err != nil {
			return 2, err
		}
	}
	for i := range n {
		to := os.Stdout
		if i%2 == 1 {
			to = os.Stderr
		}
		fmt.Fprintln(to, "line", i)
		if wait(ctx, every) != nil {
			return 0, nil
		}
	}
	return 0, nil
}

func id(context.Context, []string) (int, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 1, err
	}
	for line := range strings.Lines(string(status)) {
		for _, key := range []string{"Uid:", "Gid:", "Groups:", "CapEff:", "NoNewPrivs:", "Seccomp:"} {
			if strings.HasPrefix(line, key) {
				fmt.Print(line)
			}
		}
	}
	host, err := os.Hostname()
	fmt.Println("Hostname:", host)
	return result(err)
}
