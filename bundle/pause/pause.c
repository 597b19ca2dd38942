/* pause holds a pod's namespaces open. As process 1 of a shared pid namespace
 * it reaps orphans; it ends with status 0 on SIGINT or SIGTERM.
 *
 * It uses no C library: all signals are blocked and taken one by one with
 * rt_sigtimedwait, so no handler is ever entered, and the whole program is a
 * few hundred bytes of code, a page or two of memory per pod. */

#if defined(__x86_64__)
#define SYS_SIGPROCMASK 14
#define SYS_SIGTIMEDWAIT 128
#define SYS_WAIT4 61
#define SYS_EXIT_GROUP 231
static long call(long n, long a, long b, long c, long d)
{
	long r;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return r;
}
#elif defined(__aarch64__)
#define SYS_SIGPROCMASK 135
#define SYS_SIGTIMEDWAIT 137
#define SYS_WAIT4 260
#define SYS_EXIT_GROUP 94
static long call(long n, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}
#else
#error "pause: add the four system call numbers of this architecture"
#endif

#define SIGINT 2
#define SIGTERM 15
#define SIGCHLD 17
#define SIG_SETMASK 2
#define WNOHANG 1

void _start(void)
{
	unsigned long all = ~0UL;

	call(SYS_SIGPROCMASK, SIG_SETMASK, (long)&all, 0, sizeof all);
	for (;;) {
		long sig = call(SYS_SIGTIMEDWAIT, (long)&all, 0, 0, sizeof all);

		if (sig == SIGINT || sig == SIGTERM)
			call(SYS_EXIT_GROUP, 0, 0, 0, 0);
		if (sig == SIGCHLD)
			while (call(SYS_WAIT4, -1, 0, WNOHANG, 0) > 0)
				;
	}
}
