import {Gateway} from './gateway.js'
const g=await new Gateway(['--log-level','debug']).start()
try{
Object.assign(process.env,{E2B_API_URL:g.url,E2B_SANDBOX_URL:g.url,E2B_API_KEY:g.opts.apiKey})
const {Sandbox}=await import('e2b')
let bad=0
for (let i=0;i<40;i++){
const s=await Sandbox.create()
try {
await s.commands.run('mkdir -p w/below; touch w/old')
const h=await s.files.watchDir('w',()=>{})
await s.files.write('w/new','x')
await s.commands.run('chmod 600 w/old')
await s.files.rename('w/old','w/renamed')
await s.files.remove('w/renamed')
await s.files.write('w/below/deep','x')
await h.stop()
} catch(e) {bad++; console.log(i,e.message)}
await s.kill()
}
console.log('bad',bad)
console.log(g.logTail(4000).split('\n').filter(l=>/no response|invalid|no connection/.test(l)).join('\n'))
}finally{await g.remove()}
