import time
def test_smoke(make_run, start_trainer):
    for f in ("vanilla","polychromatic"):
        t=time.time()
        folder = make_run(f, family=f)
        p=start_trainer(folder); out,err=p.communicate(); print(p.returncode); print(out); print(err[-3000:])
        print(time.time()-t)
        print((folder/"metrics.jsonl").read_text()[:1500])
        print((folder/"ledger.jsonl").read_text())
        import os; os.system(f"find {folder} -type f | xargs ls -la")
